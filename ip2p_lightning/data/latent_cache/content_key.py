"""What a pair is made from, as a digest of bytes: never of names or times."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ip2p_lightning.data.latent_cache.code_version import code_of
from ip2p_lightning.errors import UserError
from ip2p_lightning.system.file_digests import Digests


class Contents:
    """Digests of the sources of pairs, by way of `digests`."""

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
    """A degradation or teacher in words that change when it does, or its code.

    Raises:
        UserError: it holds something whose content, or code, is not known.
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return repr(thing)
    if isinstance(thing, np.ndarray):
        return f"{thing.dtype}{thing.shape}{hashlib.sha256(np.ascontiguousarray(thing).tobytes()).hexdigest()}"
    if isinstance(thing, list | tuple):
        return "[" + ",".join(map(described, thing)) + "]"
    if isinstance(thing, Mapping):
        return "{" + ",".join(f"{key}:{described(thing[key])}" for key in sorted(thing, key=str)) + "}"
    if callable(getattr(thing, "digest", None)):
        return f"{type(thing).__qualname__} {code_of(type(thing))} {thing.digest()}"
    if dataclasses.is_dataclass(thing) or type(thing).__module__.startswith("ip2p_lightning."):
        return f"{type(thing).__qualname__} {code_of(type(thing))}{described(vars(thing))}"
    raise UserError(f"cache_draws: what {type(thing).__name__} holds is not known to the cache; use cache_draws=0")
