"""Check that a dataset is what was built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ip2p_lightning.curation.shards.assemble import METADATA
from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.system.files import read_json, sha256_of

WORK = ".work"


def verify(folder: Path) -> str:
    """One line that says that all files are as written.

    Raises:
        UserError: no dataset in `folder`.
        DamagedError: a file is missing, changed or unexpected; the line names the first.
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


def read_metadata(folder: Path) -> dict[str, Any]:
    """``dataset.json`` of a finished dataset.

    Raises:
        UserError: there is none.
        DamagedError: it cannot be read.
    """
    path = folder / METADATA
    try:
        metadata = read_json(path)
    except FileNotFoundError:
        found = "a build that is not finished: run its command again" if (folder / WORK).is_dir() else "no dataset"
        raise UserError(f"{folder}: {found} ({METADATA} is missing)") from None
    except OSError as error:
        raise DamagedError(f"{path}: {error}; build the dataset again") from None
    if not (metadata.get("complete") and isinstance(metadata.get("files"), dict)):
        raise DamagedError(f"{path}: does not describe a complete dataset; build it again")
    return metadata
