"""What a pair is made from, as a digest of bytes: never of names or times."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ip2p_lightning.caching.records import RecordLog
from ip2p_lightning.errors import DataError, StorageError, UserError

_MARK = 16
_SETTLED = 2_000_000_000  # nanoseconds after its last change from which on a file's times tell of the next one


class Contents:
    """Digests of sources; those of files are remembered on disk, so that the next job of a sweep reads no file twice.

    A remembered digest counts while the file's size, times (also of its inode, which no program can set back), and
    inode are those it was made at. A file that was merely touched is read again, and found to be what it was.
    """

    def __init__(self, memo: Path) -> None:
        self.memo = RecordLog(memo, _MARK + hashlib.sha256().digest_size)
        self._changed: set[bytes] = set()
        self._bytes: dict[tuple[int, int], bytes] = {}
        self._files: dict[bytes, bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_bytes": {}, "_files": {}}

    @property
    def changed(self) -> int:
        """Files that were found with another content than before."""
        return len(self._changed)

    def of(self, pairs: Any, i: int) -> bytes:
        """sha256 over the digests of everything that pair `i` is made from. Raises DataError for a missing file."""
        whole = hashlib.sha256()
        known = self._bytes.get((id(pairs), i))
        if known is not None:
            return known
        sources = pairs.sources(i)
        for source in sources:
            whole.update(self._file(source) if isinstance(source, Path) else hashlib.sha256(source).digest())
        if not any(isinstance(source, Path) for source in sources):  # rows of an open table do not change
            self._bytes[id(pairs), i] = whole.digest()
        return whole.digest()

    def _file(self, path: Path) -> bytes:
        name, mark = _marked(path)
        known = self._files.get(name)
        if known is None or known[:_MARK] != mark:
            known = self._looked_up(path, name, mark)
            self._files[name] = known
        return known[_MARK:]

    def _looked_up(self, path: Path, name: bytes, mark: bytes) -> bytes:
        found = self.memo.find(name)
        if found is not None and found[1][:_MARK] == mark:
            return found[1]
        if time.time_ns() - path.stat().st_ctime_ns < _SETTLED:
            mark = bytes(_MARK)  # matches nothing: a second change within one tick of the clock would go unseen
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        if found is not None and found[1][_MARK:] != digest:
            self._changed.add(name)
        with contextlib.suppress(StorageError), self.memo.appending() as row:  # the next job then reads the file again
            self.memo.append(row, [(name, mark + digest)])
        return mark + digest


def _marked(path: Path) -> tuple[bytes, bytes]:
    """The key of a path, and a digest of what changes when the file does."""
    try:
        s = os.stat(path)  # noqa: PTH116  half the cost of Path.stat, and this is asked for every example
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    state = f"{s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"
    name = os.path.abspath(path)  # noqa: PTH100
    return hashlib.sha256(name.encode()).digest(), hashlib.sha256(state.encode()).digest()[:_MARK]


def described(thing: Any) -> str:
    """A degradation or teacher in words that change when it does.

    Raises:
        UserError: it holds something whose content is not known.
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
        return f"{type(thing).__qualname__} {thing.digest()}"
    if dataclasses.is_dataclass(thing) or type(thing).__module__.startswith("ip2p_lightning."):
        return f"{type(thing).__qualname__}{described(vars(thing))}"
    raise UserError(f"cache_draws: what {type(thing).__name__} holds is not known to the cache; use cache_draws=0")
