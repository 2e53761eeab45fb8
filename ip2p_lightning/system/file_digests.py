"""sha256 of files, remembered on disk: the next start, and the next job of a sweep, reads none of them again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ip2p_lightning.errors import DataError, StorageError
from ip2p_lightning.system.record_log import RecordLog

MEMO = "sources"  # in a folder of caches
_MARK = 16
_SETTLED = 2_000_000_000  # nanoseconds after its last change from which on a file's times tell of the next one


State = tuple[int, int, int, int, int]


class News(NamedTuple):
    """What happened since it was last asked: files and things read, and which files (by the sha256 of their path) were
    found with another content than before."""

    read: int = 0
    changed: frozenset[bytes] = frozenset()


def state_of(path: Path) -> State:
    """What changes when a file does: device, inode, size, and both its times, of which no program sets back the
    second, as copies that keep the first do (``cp -p``, ``rsync -t``). Raises OSError."""
    s = os.stat(path)  # noqa: PTH116  half the cost of Path.stat, and this is asked for every example
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


class Digests:
    """Digests of files, and of things whose name changes with their content.

    A remembered digest of a file counts while the file's size, times (also of its inode, which no program can set
    back), and inode are those it was made at. A file that was merely touched is read again, and found to be the same.

    Args:
        memo: where to remember; None: in this process only.

    read: files and things that had to be read here. changed: files that were found with another content than before.
    """

    def __init__(self, memo: Path | None = None) -> None:
        self.memo = RecordLog(memo, _MARK + hashlib.sha256().digest_size) if memo is not None else None
        self.read = 0
        self.changed: set[bytes] = set()
        self._files: dict[bytes, bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def news(self) -> News:
        """What was counted, to be counted by who asks: a loader's worker has nobody else to tell."""
        news, self.read, self.changed = News(self.read, frozenset(self.changed)), 0, set()
        return news

    def of_file(self, path: Path, keep: bool = True) -> bytes:
        """sha256 of a file, remembered on disk if `keep`. Raises DataError where it cannot be read."""
        try:
            name, mark = _marked(path)
            known = self._files.get(name)
            if known is None or known[:_MARK] != mark:
                known = self._files[name] = self._looked_up(path, name, mark, keep)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        return known[_MARK:]

    def of_named(self, name: str, compute: Callable[[], bytes]) -> bytes:
        """A digest of 32 bytes by a name that changes when what it is of does; computed where it is not remembered."""
        key = hashlib.sha256(f"named {name}".encode()).digest()
        found = self.memo.find(key) if self.memo is not None else None
        if found is not None:
            return found[1][_MARK:]
        digest = compute()
        self._remember(key, bytes(_MARK), digest)
        return digest

    def _looked_up(self, path: Path, name: bytes, mark: bytes, keep: bool) -> bytes:
        found = self.memo.find(name) if self.memo is not None else None
        if found is not None and found[1][:_MARK] == mark:
            return found[1]
        if time.time_ns() - path.stat().st_ctime_ns < _SETTLED:
            mark = bytes(_MARK)  # matches nothing: a second change within one tick of the clock would go unseen
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        if found is not None and found[1][_MARK:] != digest:
            self.changed.add(name)
        self._remember(name, mark, digest, keep)
        return mark + digest

    def _remember(self, name: bytes, mark: bytes, digest: bytes, keep: bool = True) -> None:
        self.read += 1
        if self.memo is not None and keep:
            with contextlib.suppress(StorageError), self.memo.appending() as row:  # else it is read again
                self.memo.append(row, [(name, mark + digest)])


def _marked(path: Path) -> tuple[bytes, bytes]:
    """The key of a path, and a digest of what changes when the file does."""
    state = " ".join(map(str, state_of(path)))
    name = os.path.abspath(path)  # noqa: PTH100
    return hashlib.sha256(name.encode()).digest(), hashlib.sha256(state.encode()).digest()[:_MARK]
