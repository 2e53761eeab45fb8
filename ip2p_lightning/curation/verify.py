"""Check that a dataset is what was built."""

from __future__ import annotations

from pathlib import Path

from ip2p_lightning.data.sources.built import read_metadata
from ip2p_lightning.errors import DamagedError
from ip2p_lightning.system.files import sha256_of


def verify(folder: Path) -> str:
    """One line that says that all files are as written.

    Raises UserError: no dataset in `folder`; DamagedError: a file is missing, changed or unexpected (the first).
    """
    metadata = read_metadata(folder)
    for name, known in metadata["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path}: is missing; copy or build the dataset again")
        if path.stat().st_size != known.get("bytes") or sha256_of(path) != known.get("sha256"):
            raise DamagedError(f"{path}: does not have the sha256 it was written with; copy or build the dataset again")
    extra = sorted(p.name for p in (folder / "data").iterdir() if f"data/{p.name}" not in metadata["files"])
    if extra:
        raise DamagedError(f"{folder / 'data' / extra[0]}: does not belong to this dataset; remove it")
    return f"verified: {len(metadata['files'])} files, {metadata.get('accepted')} pairs"
