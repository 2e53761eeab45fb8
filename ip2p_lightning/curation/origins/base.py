"""The interface of sources, and reading files inside a source's folder only."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ip2p_lightning.data.sources.manifest_reader import same_name
from ip2p_lightning.errors import DataError, SecurityError, UserError

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


class Candidate(NamedTuple):
    """A pair, or a clean photo to make one from."""

    id: str
    """Unique in its source, the same on every machine."""
    original: str | None
    """Where the source keeps the image before the edit (a path below its root); None: to be made."""
    edited: str | None
    prompt: str | None = None
    split: str | None = None
    """As published; None: to be decided."""
    scene: str | None = None
    """Candidates of one scene stay in one split."""
    sha256: tuple[str | None, str | None] = (None, None)
    """What either file must hash to, where the source says so."""
    bytes: int = 0
    """Size of its files: chunks are cut by it."""
    stamp: int = 0
    """Changes when a file does."""


class Rejection(NamedTuple):
    """A file or pair that does not become an example, and why; `stage`: list, read, decode, pair, prompt or leakage."""

    id: str
    path: str
    stage: str
    reason: str


class Listing(NamedTuple):
    """The contents of a source."""

    candidates: list[Candidate]
    rejected: list[Rejection]


class Origin(Protocol):
    """A source of candidates."""

    name: str
    val: float
    """Fraction of what has no published split, for validation."""
    test: float

    def list(self) -> Listing:
        """Every candidate, in order of id. Raises UserError, with what to download, if there is none."""

    def read(self, place: str, limit: int) -> bytes:
        """The file at `Candidate.original` or `.edited`; `DataError` beyond `limit` bytes or if it cannot be read."""

    def facts(self) -> dict[str, str]:
        """Home, licence, citation and known overlaps, for the card."""


def source_folder(root: str, advice: str) -> Path:
    """`root` as a folder. Raises UserError: no such folder (with `advice`), or an archive, which is never opened."""
    folder = Path(root).expanduser()
    if folder.is_dir():
        return folder
    if folder.suffix.lower() in ARCHIVES:
        raise UserError(f"source.root={root}: archives are not opened; unpack it yourself and give the folder")
    raise UserError(f"source.root={root}: no such folder; {advice}")


def read_inside(root: str, place: str, limit: int) -> bytes:
    """The bytes of a regular file below `root`, with links resolved.

    Raises SecurityError: it leads out of the root, or to a device, pipe or socket; DataError: not there, a folder, or
    larger than `limit`.
    """
    path = os.path.realpath(f"{root}/{place}")
    if not path.startswith(root.rstrip("/") + "/"):
        raise SecurityError("a link out of the source's folder")
    try:
        # a pipe must not block; a link put there meanwhile is not followed
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISDIR(status.st_mode):
                raise DataError("is a folder")
            if not stat.S_ISREG(status.st_mode):
                raise SecurityError("a device, pipe or socket")
            if status.st_size > limit:
                raise DataError(f"{status.st_size} bytes, more than {limit}")
            return file.read(status.st_size + 1)  # not `limit`: a buffer of that size for every file is slow
    except OSError as error:
        raise DataError(error.strerror or "cannot be read") from None


def without_duplicates(
    candidates: Sequence[Candidate], rejected: list[Rejection], lines: Sequence[int] = ()
) -> list[Candidate]:
    """Candidates in order of id, without those whose id is not UTF-8 or differs from another's in case or form only.

    Not all file systems keep ``Ä.png`` and ``ä.png`` apart: such a dataset could not be copied. Rejections are added to
    `rejected`; `lines` are the candidates' lines in a manifest, for the reason.
    """
    seen: dict[str, int] = {}
    kept = []
    for i in sorted(range(len(candidates)), key=lambda i: [part or "" for part in candidates[i][:5]]):
        name, path = candidates[i].id, candidates[i].original or candidates[i].edited or ""
        if ascii(name) != name and any("\ud800" <= c <= "\udfff" for c in name):
            rejected.append(Rejection(ascii(name), ascii(name), "list", "the name is not UTF-8"))
            continue
        first = seen.setdefault(same_name(name).casefold(), i)
        if first == i:
            kept.append(candidates[i])
            continue
        other = candidates[first].id
        why = "the same id twice" if other == name else "differs in case or Unicode form only"
        where, there = (f"line {lines[i]}, field 'id': ", f" on line {lines[first]}") if lines else ("", "")
        rejected.append(Rejection(name, path, "list", f"{where}{why}: '{other}'{there}"))
    return kept
