"""Files that are either complete or absent: temporary file in the same folder, fsync, atomic replace, sha256."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ip2p_lightning.errors import DamagedError, StorageError

TEMPORARY = ".tmp-"


@contextmanager
def storage_errors(path: Path, action: str = "write") -> Iterator[None]:
    """Turn an operating system's refusal into one line that names the path."""
    try:
        yield
    except OSError as error:
        free = f", {shutil.disk_usage(_existing(path)).free} bytes free" if error.errno == errno.ENOSPC else ""
        raise StorageError(f"cannot {action} {path}: {error.strerror or error}{free}") from error


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """A full or read-only disk in one line that names `folder`, where a library met it and told no path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) and error.filename is None:
            with storage_errors(folder, "write in"):
                raise
        raise


def write_atomic(path: Path, write: Callable[[BinaryIO], None] | bytes) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one, never a part.

    The temporary file lies in the same folder: a rename across file systems would be a copy.

    Raises:
        StorageError: no space, no permission.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with storage_errors(path):
        try:
            with temporary.open("wb") as file:
                if isinstance(write, bytes):
                    file.write(write)
                else:
                    write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Atomic, human-readable JSON."""
    write_atomic(path, (json.dumps(content, indent=2, default=str) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DamagedError: it is none.
        FileNotFoundError: there is no such file.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not readable: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path} holds no JSON object")
    return content


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add a JSON object as a line of its own, whatever a kill or a full disk left of the line before.

    Raises:
        StorageError: no space, no permission.
    """
    line = json.dumps(content) + "\n"
    with storage_errors(path), path.open("a+b") as file:
        if file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
            line = "\n" + line
        file.write(line.encode())


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def probe(folder: Path) -> None:
    """Create `folder` and prove that a file can be written there.

    Raises:
        StorageError: it cannot.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "probe", b"ok")
    (folder / "probe").unlink()


def require_space(folder: Path, needed: int) -> None:
    """Raise StorageError unless `needed` bytes are free where `folder` lies."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise StorageError(f"{folder}: {needed} bytes needed, {free} free; free some space or lower keep")


def sweep_temporaries(folder: Path) -> int:
    """Remove temporary files whose writer is dead; how many."""
    removed = 0
    for path in folder.glob(f"{TEMPORARY}*"):
        pid = path.name.removeprefix(TEMPORARY).split("-")[0]
        if not (pid.isdigit() and _alive(int(pid))):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _existing(path: Path) -> Path:
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path


def remove_empty(folder: Path) -> None:
    """Remove an empty folder, and the two above it where they hold nothing else; never the current one."""
    folder = folder.absolute()
    for path in (folder, *folder.parents[:2]):
        if Path.cwd().is_relative_to(path):
            return
        try:
            path.rmdir()
        except OSError:
            return
