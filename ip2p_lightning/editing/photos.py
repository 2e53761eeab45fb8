"""Which photos are edited, with which instruction, and where the edits go."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ip2p_lightning.data.image import SUFFIXES, UNREAD
from ip2p_lightning.data.sources.image_files import name_left_out
from ip2p_lightning.data.sources.manifest_reader import as_on_disk, cell, records
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.system.files import require_name


class Job(NamedTuple):
    """One edit: a photo, where the edit goes, and the instruction."""

    photo: Path
    out: Path
    prompt: str


def find_photos(names: Sequence[str], prompt: str) -> list[tuple[Path, str]]:
    """The photos of files, folders and globs, each with `prompt`. Raises DataError for a name without a photo."""
    return _distinct((photo, prompt) for name in names for photo in _expand(name))


def read_list(path: Path) -> list[tuple[Path, str]]:
    """The photos and instructions of a ``.csv`` or ``.jsonl`` file with the fields ``photo`` and ``prompt``.

    A photo's path is relative to the file's folder, or absolute; it may come with several instructions. Raises
    UserError for no such file, DataError for a line without an existing photo or an instruction, or no line.
    """
    found: list[tuple[Path, str]] = []
    for number, record in records(path):
        where = f"{path}, line {number}"
        photo = path.parent / Path(cell(record, "photo", where)).expanduser()
        if not photo.is_file():  # its accents may be spelt in another form there
            photo = Path("/", as_on_disk("", str(photo.absolute())[1:]))
        if not photo.is_file():
            raise DataError(f"{where}: '{record['photo']}': no such file")
        found.append((photo, cell(record, "prompt", where).strip()))
    if not found:
        raise DataError(f"{path}: no line with a photo and a prompt")
    return _distinct(found)


def _distinct(wanted: Iterable[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Each wish once, also where a photo is spelt in two ways."""
    return list({(_place(photo), prompt): (photo, prompt) for photo, prompt in reversed([*wanted])}.values())[::-1]


def _place(path: Path) -> Path:
    """The one spelling of a file: a link is a file of its own, links among its folders are followed."""
    return path.parent.resolve() / path.name


def plan_outputs(wanted: Sequence[tuple[Path, str]], out: Path | None, overwrite: bool) -> list[Job]:
    """The output of every photo, checked before any model is loaded.

    Edits of a photo with several instructions are numbered: NAME-1, NAME-2, ... Raises UserError for an output that
    exists, is named twice or is a photo to be edited.
    """
    if out is not None and out.suffix.lower() in SUFFIXES | UNREAD and not out.is_dir():
        if out.suffix.lower() != ".png" or len(wanted) > 1:
            where = f"give FILE.png for one image, a folder for {len(wanted)}"
            raise UserError(f"-o {out}: edits are written as PNG; {where}")
        jobs = [Job(wanted[0][0], out, wanted[0][1])]
    else:
        jobs, counts, seen = [], Counter(_place(photo) for photo, _ in wanted), Counter[Path]()
        for photo, prompt in wanted:
            place = _place(photo)
            seen[place] += 1
            stem = f"{photo.stem}-{seen[place]}" if counts[place] > 1 else photo.stem
            jobs.append(Job(photo, out / f"{stem}.png" if out else photo.with_name(f"{stem}-edit.png"), prompt))
    _check_outputs(jobs, overwrite)
    return jobs


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = [p for p in sorted(path.iterdir()) if not p.name.startswith(".")]
        images = {p: p.suffix.lower() in SUFFIXES | UNREAD and p.is_file() for p in inside}  # UNREAD: are refused
        found = [p for p, used in images.items() if used and not p.name.endswith("-edit.png")]
        name_left_out(path, [p.name for p, used in images.items() if not used])
        reason = "holds no images"
    else:
        found = [p for p in map(Path, sorted(glob.glob(name, recursive=True))) if p.is_file()]  # noqa: PTH207 absolute too
        reason = "no such file, folder or glob"
    if not found:
        raise DataError(f"{name}: {reason}")
    return found


def _check_outputs(jobs: Sequence[Job], overwrite: bool) -> None:
    photos = {job.photo.resolve() for job in jobs}
    seen: dict[Path, Path] = {}
    for photo, out, _ in jobs:
        require_name(out)
        if out.resolve() in photos:
            raise UserError(f"{out} is a photo to be edited; give another -o")
        if (place := _place(out)) in seen:
            raise UserError(f"{seen[place]} and {photo} would both be written to {out}; edit them in two calls")
        if out.exists() and not (overwrite and out.is_file()):
            raise UserError(f"{out} exists; give --overwrite or another -o")
        seen[place] = photo
