"""File locks that the kernel releases when their process ends."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import IO, Any

from ip2p_lightning.errors import StorageError
from ip2p_lightning.system.files import storage_errors

_HELD = (errno.EWOULDBLOCK, errno.EACCES)  # by another process; any other error means that there are no locks


def try_lock(path: Path) -> IO[bytes] | None:
    """Lock a file, created if missing; the open file holds the lock. None: another process has it.

    Raises StorageError: the file cannot be opened, or its file system has no locks.
    """
    with storage_errors(path):
        file = Path(path).open("ab")  # noqa: SIM115
    if _locked(file, fcntl.LOCK_EX, path):
        return file
    file.close()
    return None


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock of a file, which may be missing or read-only."""
    try:
        with Path(path).open("rb") as file:
            return not _locked(file, fcntl.LOCK_SH, path)
    except (FileNotFoundError, StorageError):
        return False


def wait_for_lock(file: Any) -> None:
    """Wait for the lock of an open file (or descriptor); closing it releases the lock."""
    fcntl.flock(file, fcntl.LOCK_EX)


def _locked(file: Any, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        file.close()
        raise StorageError(
            f"{path}: its file system has no file locks ({error.strerror}), which keep two commands out of one folder; "
            "choose a folder on another, or have it mounted with flock"
        ) from None
    return True
