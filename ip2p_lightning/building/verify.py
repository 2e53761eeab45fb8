"""Whether a dataset is what was built."""

from __future__ import annotations

from pathlib import Path

from ip2p_lightning.building.build import read_mark
from ip2p_lightning.errors import DamagedError
from ip2p_lightning.system.files import sha256_of


def verify(folder: Path) -> str:
    """One line that says all is well.

    Raises:
        UserError: no dataset there.
        DamagedError: a file is missing, changed, or too many; the line names the first.
    """
    mark = read_mark(folder, strict=True)
    for name, known in mark["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path}: is missing; copy or build the dataset again")
        if path.stat().st_size != known["bytes"] or sha256_of(path) != known["sha256"]:
            raise DamagedError(f"{path}: does not have the sha256 it was written with; copy or build the dataset again")
    more = sorted(p.name for p in (folder / "data").iterdir() if f"data/{p.name}" not in mark["files"])
    if more:
        raise DamagedError(f"{folder / 'data' / more[0]}: does not belong to this dataset; remove it")
    return f"verified: {len(mark['files'])} files, {mark['accepted']} pairs"
