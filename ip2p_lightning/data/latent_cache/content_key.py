"""What a pair is made from, as a digest of bytes: never of names or times."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ip2p_lightning.errors import UserError
from ip2p_lightning.system.file_digests import Digests


class Contents:
    """Digests of the sources of pairs, cached in `digests`."""

    def __init__(self, digests: Digests) -> None:
        self.digests = digests
        self._bytes: dict[tuple[int, int], bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_bytes": {}}

    def of(self, pairs: Any, i: int) -> bytes:
        """sha256 over the digests of everything that pair `i` is made from. Raises DataError for a missing file."""
        if hasattr(pairs, "row_name"):
            return self.digests.of_named(pairs.row_name(i), lambda: self._whole(pairs.sources(i)))
        known = self._bytes.get((id(pairs), i))
        if known is not None:
            return known
        sources = pairs.sources(i)
        whole = self._whole(sources)
        if not any(isinstance(source, Path) for source in sources):  # rows of an open table do not change
            self._bytes[id(pairs), i] = whole
        return whole

    def _whole(self, sources: tuple[Path | bytes, ...]) -> bytes:
        whole = hashlib.sha256()
        for source in sources:
            digest = self.digests.of_file(source) if isinstance(source, Path) else hashlib.sha256(source).digest()
            whole.update(digest)
        return whole.digest()


def described(thing: Any) -> str:
    """A degradation or teacher as text that changes when it does. Raises as `class_version` does, also for parts."""
    if thing is None or isinstance(thing, bool | int | float | str):
        return repr(thing)
    if isinstance(thing, np.ndarray):
        return f"{thing.dtype}{thing.shape}{hashlib.sha256(np.ascontiguousarray(thing).tobytes()).hexdigest()}"
    if isinstance(thing, list | tuple):
        return "[" + ",".join(map(described, thing)) + "]"
    if isinstance(thing, Mapping):
        return "{" + ",".join(f"{key}:{described(thing[key])}" for key in sorted(thing, key=str)) + "}"
    own = f"{type(thing).__qualname__} {class_version(type(thing))}"
    return f"{own} {thing.digest() if callable(getattr(thing, 'digest', None)) else described(vars(thing))}"


def class_version(kind: type) -> str:
    """What stands for the code of a class: "" in this package (see `VERSION`), else its ``version`` or a UserError."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name.startswith("ip2p_lightning."):
        return ""
    if not hasattr(kind, "version"):
        raise UserError(
            f"cache: nothing tells when {name} changes; give the class a number (version = 1), raised with every "
            "change of its results, or use cache=off (of a degradation or teacher: cache_draws=0)"
        )
    return f"{name} {kind.version}"
