"""sha256 of files, cached on disk: the next start, or the next job of a sweep, reads only files that changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ip2p_lightning.errors import DataError, StorageError
from ip2p_lightning.system.files import sha256_of
from ip2p_lightning.system.record_log import RecordLog

MEMO = "sources"  # in a folder of caches
_MARK = 16
_SETTLED = 2_000_000_000  # ns after a change; within it a second change might leave the file's times equal

State = tuple[int, int, int, int, int]


class News(NamedTuple):
    """Counts since the last call: files read, and files (by the sha256 of their path) whose content has changed."""

    read: int = 0
    changed: frozenset[bytes] = frozenset()


def state_of(path: Path) -> State:
    """Device, inode, size, mtime and ctime (which no program can set back, unlike mtime). Raises OSError."""
    s = os.stat(path)  # noqa: PTH116  half the cost of Path.stat, and called for every example
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


class Digests:
    """Digests of files, and of objects whose name changes with their content.

    A cached digest is valid while the file's inode, size and times are unchanged; `memo` is the cache, None: in this
    process only. read: files and objects read so far. changed: files whose content differs from the cached digest.
    """

    def __init__(self, memo: Path | None = None) -> None:
        self.memo = RecordLog(memo, _MARK + hashlib.sha256().digest_size) if memo is not None else None
        self.read = 0
        self.changed: set[bytes] = set()
        self._files: dict[bytes, bytes] = {}
        self._named: dict[bytes, bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}, "_named": {}}

    def news(self) -> News:
        """Return the counts and reset them: a loader's worker passes them on with each example."""
        news, self.read, self.changed = News(self.read, frozenset(self.changed)), 0, set()
        return news

    def of_file(self, path: Path, keep: bool = True) -> bytes:
        """sha256 of a file, cached on disk if `keep`. Raises DataError where it cannot be read."""
        try:
            name, mark = _marked(path)
            known = self._files.get(name)
            if known is None or known[:_MARK] != mark:
                known = self._files[name] = self._looked_up(path, name, mark, keep)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        return known[_MARK:]

    def of_named(self, name: str, compute: Callable[[], bytes], keep: bool = True) -> bytes:
        """A digest of 32 bytes by name (which changes with the content), computed where it is missing; as `of_file`."""
        key = hashlib.sha256(f"named {name}".encode()).digest()
        found = self.memo.find(key) if self.memo is not None else None
        if found is not None:
            return found[1][_MARK:]
        if key not in self._named:
            self._named[key] = compute()
            self._remember(key, bytes(_MARK), self._named[key], keep)
        return self._named[key]

    def _looked_up(self, path: Path, name: bytes, mark: bytes, keep: bool) -> bytes:
        found = self.memo.find(name) if self.memo is not None else None
        if found is not None and found[1][:_MARK] == mark:
            return found[1]
        if time.time_ns() - path.stat().st_ctime_ns < _SETTLED:
            mark = bytes(_MARK)  # matches nothing: a second change within one tick of the clock would go unseen
        digest = bytes.fromhex(sha256_of(path))
        if found is not None and found[1][_MARK:] != digest:
            self.changed.add(name)
        self._remember(name, mark, digest, keep)
        return mark + digest

    def _remember(self, name: bytes, mark: bytes, digest: bytes, keep: bool = True) -> None:
        self.read += 1
        if self.memo is not None and keep:
            with contextlib.suppress(StorageError), self.memo.appending() as row:  # else it is read again
                self.memo.append(row, [(name, mark + digest)])


_SHARED = [Digests()]


def shared_digests() -> Digests:
    """Those of this process."""
    return _SHARED[0]


def remember_digests(memo: Path | None) -> None:
    """From now on cache the process's digests in `memo`."""
    _SHARED[0] = Digests(memo)


def _marked(path: Path) -> tuple[bytes, bytes]:
    """The key of a path, and a digest of what changes when the file does."""
    state = " ".join(map(str, state_of(path)))
    name = os.path.abspath(path)  # noqa: PTH100
    return hashlib.sha256(name.encode()).digest(), hashlib.sha256(state.encode()).digest()[:_MARK]
