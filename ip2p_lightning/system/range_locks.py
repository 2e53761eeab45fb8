"""Who computes an entry: byte-range locks that the kernel takes back when their owner dies, however it dies.

A lock is a byte of an empty file, at a place that the entry's key gives. There is no owner's name to go stale: a dead
process, or a rebooted host of a shared file system, holds nothing.

Claims save work, no more. Where the file system has no such locks, or the folder cannot be written, everybody gets
what he asks for, and an entry may be computed twice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

# what systems say that have no locks, or not these: old kernels, NFS without its daemon, Lustre without flock
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.ENOTSUP)


class Claims:
    """Some keys, held by this process until the block ends.

    The file is opened for each block and closed after it: a loader's worker, forked later, never inherits a lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Claims:
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # whether it matters shows when something is stored
            self._file = -1
        return self

    def take(self, keys: Iterable[bytes]) -> list[bytes]:
        """The keys that nobody else holds, from now on held by this process; never waits."""
        return [key for key in keys if self._lock(key, fcntl.F_WRLCK)]

    def release(self, key: bytes) -> None:
        """Give one back."""
        self._lock(key, fcntl.F_UNLCK)

    def _lock(self, key: bytes, kind: int) -> bool:
        if self._file < 0:
            return True
        place = int.from_bytes(key[:7], "little")
        # open-file-description locks, not POSIX ones: those are lost when any handle of the process is closed
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0)
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
