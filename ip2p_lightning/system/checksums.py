"""Stored bytes that rot are noticed: JSON that holds its own sha256, and sums over a folder's files.

Sums are in the format of coreutils: ``sha256sum --check SHA256SUMS`` in the folder reads them too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import DamagedError
from ip2p_lightning.system.files import sha256_of, storage_errors, write_atomic

SEAL, SUMS = "sha256", "SHA256SUMS"


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Atomic, human-readable JSON whose last key is the sha256 of the rest. Raises StorageError."""
    write_atomic(path, _sealed(content))


def read_sealed(path: Path, strict: bool = False) -> dict[str, Any]:
    """What `write_sealed` wrote, without the seal.

    Args:
        path: the file.
        strict: whether a seal must be there; without one the file was written by hand, or by an earlier version.

    Raises:
        DamagedError: it is no JSON object, or not the bytes that were written.
        FileNotFoundError: there is none.
    """
    raw = Path(path).read_bytes()
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not readable: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path} holds no JSON object")
    seal = content.pop(SEAL, None)
    if seal is None and strict:
        raise DamagedError(f"{path} has no {SEAL}: it was written by hand, or by an earlier version")
    if seal is not None and raw != _sealed(content):
        raise DamagedError(
            f"{path}: its bytes do not match its {SEAL}; put it back, or remove that line if it was changed on purpose"
        )
    return content


def _sealed(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, default=str)
    seal = {SEAL: hashlib.sha256(text.encode()).hexdigest()}
    return (json.dumps({**content, **seal}, indent=2, default=str) + "\n").encode()


def write_sums(folder: Path) -> None:
    """Write the sums of all files in and below `folder`. Raises StorageError."""
    lines = (f"{sha256_of(path)}  {name}\n" for name, path in _files(folder).items())
    write_atomic(Path(folder) / SUMS, "".join(lines).encode())


def damaged_files(folder: Path) -> dict[str, str]:
    """Files of a summed folder that are not what was written, and what is wrong with each; {} where all is well."""
    known: dict[str, str] = {}
    for line in (Path(folder) / SUMS).read_bytes().decode(errors="replace").split("\n")[:-1]:
        parts = re.fullmatch(r"([0-9a-f]{64})  ([^/].*)", line)
        if parts is None:
            return {SUMS: "is not readable"}
        known[parts[2]] = parts[1]
    found = _files(folder)
    wrong = dict.fromkeys(known.keys() - found.keys(), "is missing")
    wrong |= dict.fromkeys(found.keys() - known.keys(), "does not belong here")
    wrong |= {name: "has changed" for name in known.keys() & found.keys() if sha256_of(found[name]) != known[name]}
    return dict(sorted(wrong.items()))


def _files(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files if path != Path(folder) / SUMS}


def beginnings(folder: Path, patterns: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of files that are still appended to, by name. Raises StorageError."""
    found = {}
    for path in sorted(path for pattern in patterns for path in Path(folder).glob(pattern)):
        with storage_errors(path, "read"):
            size = path.stat().st_size
            found[path.relative_to(folder).as_posix()] = {"bytes": size, "sha256": _sha256_of_first(path, size)}
    return found


def beginning_changed(path: Path, known: Mapping[str, Any]) -> bool:
    """Whether a file no longer begins with what `beginnings` found."""
    return not path.is_file() or _sha256_of_first(path, known["bytes"]) != known["sha256"]


def _sha256_of_first(path: Path, size: int) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (part := file.read(min(size, 1 << 20))):
            whole.update(part)
            size -= len(part)
    return whole.hexdigest()
