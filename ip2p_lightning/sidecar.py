"""What lies beside a checkpoint: its sha256 and name, as ``sha256sum`` writes them, and the run it belongs to.

A file that is intact may still be the wrong one: another step's, or another run's.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from ip2p_lightning.errors import DamagedError
from ip2p_lightning.system.checksums import read_sealed, write_sealed
from ip2p_lightning.system.files import sha256_of, write_atomic

IDENTITY = "run.json"  # in the folder of the checkpoints
_LINES = re.compile(r"(?:# run (?P<run>[0-9a-f]{32})\n)?(?P<digest>[0-9a-f]{64})  (?P<name>[^\n]+)\n")


def sidecar(path: Path) -> Path:
    """Where a checkpoint's sha256 is kept."""
    return path.with_name(path.name + ".sha256")


def write_sidecar(path: Path, digest: str) -> None:
    """Make a checkpoint complete. Raises StorageError."""
    run = identity(path.parent)
    write_atomic(sidecar(path), f"{f'# run {run}' + chr(10) if run else ''}{digest}  {path.name}\n".encode())


def damage(path: Path) -> str | None:
    """Why a checkpoint is not intact, or None."""
    if not path.is_file():
        return "not a file"
    if not sidecar(path).is_file():
        return f"incomplete: {sidecar(path).name} is missing"
    told = _LINES.fullmatch(sidecar(path).read_text(errors="replace"))
    if told is None:
        return f"{sidecar(path).name} is not readable"
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
        return read_sealed(folder / IDENTITY).get("id")
    except (OSError, DamagedError):
        return None


def identify(folder: Path) -> None:
    """Give a run an id if it has none: that of its newest checkpoint, or a new one. Raises StorageError."""
    if identity(folder) is None:
        told = (_LINES.fullmatch(p.read_text(errors="replace")) for p in sorted(folder.glob("step-*.sha256")))
        known = [found["run"] for found in told if found and found["run"]]
        write_sealed(folder / IDENTITY, {"id": known[-1] if known else uuid.uuid4().hex})
