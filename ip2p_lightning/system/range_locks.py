"""Claims on cache entries: byte-range locks that the kernel releases when their owner dies.

A lock is one byte of an empty file, at an offset derived from the entry's key. Without lock support, or in a read-only
folder, every claim succeeds and entries may be encoded twice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

# errors of systems without such locks: old kernels, NFS without its daemon, Lustre without flock
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.ENOTSUP)


class Claims:
    """Keys held by this process until the block ends; the file is open only within it: no fork inherits a lock."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Claims:
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # read-only: storing an entry will report it
            self._file = -1
        return self

    def take(self, keys: Iterable[bytes]) -> list[bytes]:
        """Claim the keys that no other process holds, and return them; never waits."""
        return [key for key in keys if self._lock(key, fcntl.F_WRLCK)]

    def release(self, key: bytes) -> None:
        """Release one key."""
        self._lock(key, fcntl.F_UNLCK)

    def _lock(self, key: bytes, kind: int) -> bool:
        if self._file < 0:
            return True
        # open-file-description locks, not POSIX ones: those are lost when any handle of the process is closed
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, int.from_bytes(key[:7], "little"), 1, 0)
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, request)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return True

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file >= 0:
            os.close(self._file)
