"""sha256 sums over a folder's files, in the format of coreutils: ``sha256sum --check SHA256SUMS`` reads them too."""

from __future__ import annotations

import re
from pathlib import Path

from ip2p_lightning.system.files import sha256_of, write_atomic

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """Write the sums of all files in and below `folder`. Raises StorageError."""
    lines = (f"{sha256_of(path)}  {name}\n" for name, path in _files(folder).items())
    write_atomic(Path(folder) / SUMS, "".join(lines).encode())


def damaged_files(folder: Path) -> dict[str, str]:
    """Files of a folder that do not match its sums: name to reason; {} without any."""
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
