"""A folder in the machine's shared memory, for as long as some run uses it."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_held: list[int] = []  # locks of this process; a killed one loses them too


def in_memory() -> Path:
    """The folder, shared by the live runs of this user; the last of them to end removes it.

    After a kill of the last one it stays, and the next run uses and then removes it.
    """
    shared = Path("/dev/shm")
    folder = (shared if shared.is_dir() else Path(tempfile.gettempdir())) / f"ip2p-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(13, "not this user's folder", str(folder))
    lock = os.open(folder / "users", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not _held:
        atexit.register(_leave, folder, os.getpid())
    _held.append(lock)
    return folder


def _leave(folder: Path, owner: int) -> None:
    if os.getpid() != owner:  # a forked loader worker
        return
    for lock in _held[1:]:
        os.close(lock)
    try:
        fcntl.flock(_held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # another run still uses it
    shutil.rmtree(folder, ignore_errors=True)
