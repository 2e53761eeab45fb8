"""Whether a dataset is what was built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ip2p_lightning.curation.shards.assemble import MARK
from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.system.files import read_json, sha256_of


def verify(folder: Path) -> str:
    """One line that says all is well.

    Raises:
        UserError: no dataset there.
        DamagedError: a file is missing, changed, or too many; the line names the first.
    """
    mark = read_mark(folder)
    for name, known in mark["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path}: is missing; copy or build the dataset again")
        if path.stat().st_size != known.get("bytes") or sha256_of(path) != known.get("sha256"):
            raise DamagedError(f"{path}: does not have the sha256 it was written with; copy or build the dataset again")
    more = sorted(p.name for p in (folder / "data").iterdir() if f"data/{p.name}" not in mark["files"])
    if more:
        raise DamagedError(f"{folder / 'data' / more[0]}: does not belong to this dataset; remove it")
    return f"verified: {len(mark['files'])} files, {mark.get('accepted')} pairs"


WORK = ".work"


def read_mark(folder: Path) -> dict[str, Any]:
    """The manifest of a finished dataset.

    Raises:
        UserError: there is none.
        DamagedError: it cannot be read.
    """
    try:
        mark = read_json(folder / MARK)
    except FileNotFoundError:
        begun = "a build that is not finished: give its command again"
        raise UserError(
            f"{folder}: {begun if (folder / WORK).is_dir() else 'no dataset'} ({MARK} is missing)"
        ) from None
    except OSError as error:
        raise DamagedError(f"{folder / MARK}: {error}; build the dataset anew") from None
    if not (mark.get("complete") and isinstance(mark.get("files"), dict)):
        raise DamagedError(f"{folder / MARK}: is not the mark of a complete dataset; build it anew")
    return mark
