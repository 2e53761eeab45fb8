"""Files that are either complete or absent: temporary file in the same folder, fsync, atomic replace, sha256."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ip2p_lightning.errors import DamagedError, StorageError, UserError

TEMPORARY = ".tmp-"
MOST_BYTES = 255  # of a name, on nearly every file system


@contextmanager
def storage_errors(path: Path, action: str = "write") -> Iterator[None]:
    """Turn an OSError into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        free = f", {free_bytes(path)} bytes free" if error.errno == errno.ENOSPC else ""
        raise StorageError(f"cannot {action} {path}: {error.strerror or error}{free}") from error


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Name `folder` where a library reports a full or read-only disk without a path."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) and error.filename is None
        with storage_errors(folder, "write in") if full else contextlib.nullcontext():
            raise


def write_atomic(path: Path, write: Callable[[BinaryIO], None] | bytes) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one, never a part. Raises StorageError.

    The temporary file lies in the same folder: a rename across file systems would be a copy.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{shortened(path.name)}")
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


def shortened(name: str, limit: int = 200) -> str:
    """A file's name, or a hash of it where it has more than `limit` bytes: with a prefix it would be too long."""
    raw = os.fsencode(name)
    return name if len(raw) <= limit else hashlib.sha256(raw).hexdigest()


def require_name(path: Path, room: int = 0) -> None:
    """Raise UserError where a part of `path`, with `room` more bytes, is longer than a file system takes."""
    for part in Path(path).parts:
        if (count := len(os.fsencode(part))) + room > MOST_BYTES:
            raise UserError(
                f"'{part[:40]}...' has {count} bytes, a name here may have {MOST_BYTES - room}; give a shorter one"
            )


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
    """A JSON object. Raises DamagedError where it is none, FileNotFoundError without the file."""
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not readable: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path} holds no JSON object")
    return content


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add a JSON object as a line of its own, also after a line that was cut short. Raises StorageError."""
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
    """Create `folder` and check that a file can be written there. Raises StorageError."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "probe", b"ok")
    (folder / "probe").unlink()


def require_space(folder: Path, needed: int) -> None:
    """Raise StorageError unless `needed` bytes are free where `folder` lies."""
    free = free_bytes(folder)
    if free < needed:
        raise StorageError(f"{folder}: {needed} bytes needed, {free} free; free some space or lower keep")


def sweep_temporaries(folder: Path) -> int:
    """Remove temporary files whose writer is dead; their number."""
    dead = dead_temporaries(folder)
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


def dead_temporaries(folder: Path) -> list[Path]:
    """Temporary files, and folders, whose writer is dead."""
    pids = {path: path.name.removeprefix(TEMPORARY).split("-")[0] for path in folder.glob(f"{TEMPORARY}*")}
    return [path for path, pid in pids.items() if not (pid.isdigit() and _alive(int(pid)))]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def free_bytes(path: Path) -> int:
    """Bytes free on the disk of `path`, which need not exist."""
    path = Path(path).absolute()
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


def remove_empty(folder: Path) -> None:
    """Remove an empty folder, and the two above it where they hold nothing else; never the current one."""
    folder = folder.absolute()
    with contextlib.suppress(OSError):
        for path in (folder, *folder.parents[:2]):
            if Path.cwd().is_relative_to(path):
                return
            path.rmdir()
