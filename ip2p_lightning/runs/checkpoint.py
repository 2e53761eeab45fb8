"""Checkpoints that cannot rot: complete or absent, hashed, verified on load, never pickled code."""

from __future__ import annotations

import hashlib
import re
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ip2p_lightning.errors import DamagedError, SecurityError, UserError
from ip2p_lightning.system.files import read_json, sha256_of, write_atomic, write_json

FOLDER = "checkpoints"
on_write: Callable[[int], None] | None = None  # told of every write's size; tests interrupt here


class _Hashing:
    """A file that hashes what is written to it, so that nothing is held in memory or read twice."""

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
    """Stream `content` to `path`; the sidecar is written last and makes it complete.

    Raises:
        StorageError: no space, no permission; earlier checkpoints are untouched.
    """
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
    write_checksum(path, digest)


def _system_error(error: BaseException) -> OSError:
    """The operating system's refusal behind torch's, which may lie several exceptions deep."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return OSError(cause.errno, cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return OSError(5, str(error).splitlines()[0])


def load(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Verify and read a checkpoint: tensors and plain data only.

    Raises:
        SecurityError: an address, or a file that holds code.
        DamagedError: it does not verify.
        UserError: there is no such file.
    """
    if "://" in str(path):
        raise SecurityError(f"{path}: checkpoints are read from local files only; download it and look at it first")
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
    """Checkpoints in a run's folder, newest first, intact or not."""
    found = [p for p in (Path(folder) / FOLDER).glob("step-*.ckpt") if step_of(p) >= 0]
    return sorted(found, key=step_of, reverse=True)


def newest_valid(folder: Path) -> Path | None:
    """The newest checkpoint that verifies; each damaged one is named in a warning and kept as ``*.corrupt``.

    Raises:
        DamagedError: there are checkpoints, and none of them is intact.
    """
    reasons = []
    for path in checkpoints(folder):
        reason = damage(path)
        if reason is None:
            return path
        reasons.append(f"{path}: {reason}")
        kept = _set_aside(path)
        warnings.warn(f"{reasons[-1]}; kept as {kept.name}, going back to the one before", stacklevel=2)
    if reasons and not any(r.endswith("is missing") for r in reasons):
        raise DamagedError(f"no intact checkpoint left; {reasons[0]}")
    return None


def _set_aside(path: Path) -> Path:
    """Rename what is no checkpoint of this run; where to."""
    kept, number = path.with_name(path.name + ".corrupt"), 1
    while kept.exists() or kept.is_symlink():
        number += 1
        kept = path.with_name(f"{path.name}.corrupt{number}")
    path.replace(kept)
    checksum_file(path).unlink(missing_ok=True)
    return kept


IDENTITY = "run.json"  # in the folder of the checkpoints


_LINES = re.compile(r"(?:# run (?P<run>[0-9a-f]{32})\n)?(?P<digest>[0-9a-f]{64})  (?P<name>[^\n]+)\n")


def checksum_file(path: Path) -> Path:
    """Where a checkpoint's sha256 is kept."""
    return path.with_name(path.name + ".sha256")


def write_checksum(path: Path, digest: str) -> None:
    """Make a checkpoint complete. Raises StorageError."""
    run = identity(path.parent)
    write_atomic(checksum_file(path), f"{f'# run {run}' + chr(10) if run else ''}{digest}  {path.name}\n".encode())


def damage(path: Path) -> str | None:
    """Why a checkpoint is not intact, or None."""
    if not path.is_file():
        return "not a file"
    if not checksum_file(path).is_file():
        return f"incomplete: {checksum_file(path).name} is missing"
    told = _LINES.fullmatch(checksum_file(path).read_text(errors="replace"))
    if told is None:
        return f"{checksum_file(path).name} is not readable"
    if path.name.startswith("step-") and told["name"] != path.name:
        return f"was saved as {told['name']}"
    if told["run"] and identity(path.parent) not in (None, told["run"]):
        return "belongs to another run"
    if told["digest"] != sha256_of(path):
        return "its bytes do not match its sha256"
    return None


def identity(folder: Path) -> str | None:
    """The id of the run whose checkpoints lie in `folder`; None where it is not known: any of them may be its own."""
    try:
        return read_json(folder / IDENTITY).get("id")
    except (OSError, DamagedError):
        return None


def identify(folder: Path) -> None:
    """Give a run an id if it has none: that of its newest checkpoint, or a new one. Raises StorageError."""
    if identity(folder) is None:
        told = (_LINES.fullmatch(p.read_text(errors="replace")) for p in sorted(folder.glob("step-*.sha256")))
        known = [found["run"] for found in told if found and found["run"]]
        write_json(folder / IDENTITY, {"id": known[-1] if known else uuid.uuid4().hex})
