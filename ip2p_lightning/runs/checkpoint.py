"""Checkpoints: written atomically, with a sha256 that is verified on load; tensors and plain data only."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ip2p_lightning.errors import DamagedError, SecurityError, UserError, chain
from ip2p_lightning.system.files import read_json, sha256_of, write_atomic, write_json

FOLDER = "checkpoints"
on_write: Callable[[int], None] | None = None  # called with the size of every write; tests interrupt here


class _Hashing:
    """A file that hashes what is written to it: nothing is buffered or read again."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        if on_write is not None:
            on_write(len(data))
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def save(content: dict[str, Any], path: Path) -> None:
    """Stream `content` to `path`; the checksum file, written last, makes it complete. Raises StorageError."""
    import torch

    path, digest = Path(path), ""

    def write(file: BinaryIO) -> None:
        nonlocal digest
        hashing = _Hashing(file)
        try:
            torch.save(content, hashing)
        except RuntimeError as error:  # torch's writer hides the operating system's reason
            raise _system_error(error) from error
        digest = hashing.hash.hexdigest()

    write_atomic(path, write)
    run = identity(path.parent)
    head = f"# run {run}\n" if run else ""
    write_atomic(checksum_file(path), f"{head}{digest}  {path.name}\n".encode())


def _system_error(error: BaseException) -> OSError:
    """The OSError behind torch's RuntimeError, several exceptions deep."""
    causes = (OSError(cause.errno, cause.strerror) for cause in chain(error) if isinstance(cause, OSError))
    return next(causes, OSError(errno.EIO, str(error).splitlines()[0]))


def load(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Verify and read a checkpoint: tensors and plain data only.

    Raises SecurityError for an address or a file that holds code, DamagedError for a wrong checksum, UserError for no
    such file.
    """
    import torch

    if "://" in str(path):
        raise SecurityError(f"{path}: checkpoints are read from local files only; download and inspect it first")
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    reason = damage(path)
    if reason:
        raise DamagedError(f"{path}: {reason}")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise SecurityError(f"{path} holds more than tensors and plain data: {str(error).splitlines()[0]}") from None


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's name, -1 for other files."""
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a run's folder, newest first, damaged ones included."""
    found = [p for p in (Path(folder) / FOLDER).glob("step-*.ckpt") if step_of(p) >= 0]
    return sorted(found, key=step_of, reverse=True)


def newest_valid(folder: Path) -> Path | None:
    """The newest undamaged checkpoint; each damaged one is reported in a warning and renamed to ``*.corrupt``.

    Raises DamagedError: all checkpoints are damaged.
    """
    reasons = []
    for path in checkpoints(folder):
        reason = damage(path)
        if reason is None:
            return path
        reasons.append(f"{path}: {reason}")
        kept = _move_aside(path)
        warnings.warn(f"{reasons[-1]}; kept as {kept.name}, going back to the one before", stacklevel=2)
    if reasons and not any(r.endswith("is missing") for r in reasons):
        raise DamagedError(f"no undamaged checkpoint left; {reasons[0]}")
    return None


def _move_aside(path: Path) -> Path:
    """Rename a damaged checkpoint to the first free ``*.corrupt``, ``*.corrupt2``, ...; its new path."""
    names = (path.with_name(f"{path.name}.corrupt{'' if n == 1 else n}") for n in itertools.count(1))
    kept = next(name for name in names if not os.path.lexists(name))
    path.replace(kept)
    checksum_file(path).unlink(missing_ok=True)
    return kept


IDENTITY = "run.json"  # in the folder of the checkpoints
_CHECKSUM = re.compile(r"(?:# run (?P<run>[0-9a-f]{32})\n)?(?P<digest>[0-9a-f]{64})  (?P<name>[^\n]+)\n")


def checksum_file(path: Path) -> Path:
    """The file that holds a checkpoint's sha256, in the format of sha256sum."""
    return path.with_name(path.name + ".sha256")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, None where its checksum matches."""
    if not path.is_file():
        return "not a file"
    if not checksum_file(path).is_file():
        return f"incomplete: {checksum_file(path).name} is missing"
    stored = _CHECKSUM.fullmatch(checksum_file(path).read_text(errors="replace"))
    if stored is None:
        return f"{checksum_file(path).name} is not readable"
    if path.name.startswith("step-") and stored["name"] != path.name:
        return f"was saved as {stored['name']}"
    if stored["run"] and identity(path.parent) not in (None, stored["run"]):
        return "belongs to another run"
    if stored["digest"] != sha256_of(path):
        return "its bytes do not match its sha256"
    return None


def identity(folder: Path) -> str | None:
    """The id of the run whose checkpoints lie in `folder`; None: unknown, any checkpoint is accepted."""
    try:
        return read_json(folder / IDENTITY).get("id")
    except (OSError, DamagedError):
        return None


def identify(folder: Path) -> None:
    """Give a run an id if it has none: that of its newest checkpoint, or a new one. Raises StorageError."""
    if identity(folder) is None:
        stored = (_CHECKSUM.fullmatch(p.read_text(errors="replace")) for p in sorted(folder.glob("step-*.sha256")))
        known = [found["run"] for found in stored if found and found["run"]]
        write_json(folder / IDENTITY, {"id": known[-1] if known else uuid.uuid4().hex})
