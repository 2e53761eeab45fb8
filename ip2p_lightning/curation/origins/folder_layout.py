"""Folders in their published layout, described by patterns of file names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ip2p_lightning.curation.origins.base import (
    Candidate,
    Listing,
    Rejection,
    read_inside,
    source_folder,
    without_duplicates,
)
from ip2p_lightning.data.image import SUFFIXES, UNREAD
from ip2p_lightning.data.sources.image_files import name_left_out, walk
from ip2p_lightning.data.sources.manifest_reader import same_name
from ip2p_lightning.data.sources.splits import checked_fractions
from ip2p_lightning.errors import UserError, suggest

LISTED = SUFFIXES | UNREAD  # the latter are rejected, by name
SIDES = ("original", "edited", "clean")
PARTS = {"train": "train", "val": "val", "test": "test", "any": None}  # any: divided by hash


class File(NamedTuple):
    """A file that matches a pattern."""

    path: str
    fields: dict[str, str]
    bytes: int
    stamp: int


@dataclass(eq=False)
class FolderOrigin:
    """Images below a folder, found and matched by patterns.

    A pattern is a path without its ending, such as ``train/{scene}/blur/{name}``. ``{word}`` stands for a part of a
    name, and ``{path}`` also for folders; two files whose words agree are a pair; files with one ``{scene}`` stay in
    one split; ``*`` stands for any part of a name, and ``**/`` for any folders.

    name: of the dataset.
    root: the folder.
    layouts: its known layouts; the first that is found is used. Each maps a split (train, val, test, or any: divided
        by hash) to patterns: ``original`` and ``edited``, or ``clean`` for photos from which the task makes a side.
    val: fraction for validation, of what is published as training data if there is no published validation set.
    test: likewise for testing.
    get: what to download and where to put it; shown when it is missing.
    size: how large it is.
    home, licence, citation: where its authors describe it, its terms, and the paper; for the card.
    overlaps: what it is known to share with other datasets.
    """

    name: str
    root: str
    layouts: Sequence[Mapping[str, Mapping[str, str]]]
    val: float = 0.0
    test: float = 0.0
    get: str = ""
    size: str = ""
    home: str = ""
    licence: str = ""
    citation: str = ""
    overlaps: str = ""

    def __post_init__(self) -> None:
        checked_fractions(f"source {self.name}", self.val, self.test)
        for key, side in [(key, side) for layout in self.layouts for key, sides in layout.items() for side in sides]:
            if key not in PARTS or side not in SIDES:
                known = f"give {', '.join(PARTS)} with {', '.join(SIDES)}"
                raise UserError(f"source.layouts: {key}.{side}{suggest(key, PARTS)}: {known}")
        self._real_root = os.path.realpath(Path(self.root).expanduser())

    def facts(self) -> dict[str, str]:
        values = {key: getattr(self, key) for key in ("home", "licence", "citation", "overlaps")}
        return {key: value for key, value in values.items() if value}

    def read(self, place: str, limit: int) -> bytes:
        return read_inside(self._real_root, place, limit)

    def list(self) -> Listing:
        advice = f"{self.name}: {self.get}" + (f" ({self.size})" if self.size else "")
        root = source_folder(self.root, advice)
        candidates, rejected = list[Candidate](), list[Rejection]()
        parts = self._found(root)
        for part, sides in parts.items():
            for first, second in _photos_or_pairs(root, sides, rejected):
                # scenes of one number in two published splits are different scenes (REDS numbers both from 000)
                scene = f"{part}/{first.fields['scene']}" if first.fields.get("scene") else None
                size, stamp = first.bytes, first.stamp
                if second:
                    size, stamp = size + second.bytes, stamp ^ (second.stamp << 1)
                paths = _stem(first.path), first.path, second.path if second else None
                candidates.append(Candidate(*paths, None, PARTS[part], scene, bytes=size, stamp=stamp))
        if not candidates:
            wanted = ", ".join(p for layout in self.layouts for sides in layout.values() for p in sides.values())
            raise UserError(f"{self.root}: no files that match {wanted}; {advice}")
        patterns = [pattern for sides in parts.values() for pattern in sides.values()]
        name_left_out(root, _others(root, patterns))
        return Listing(without_duplicates(candidates, rejected), sorted(rejected))

    def _found(self, root: Path) -> Mapping[str, Mapping[str, str]]:
        """The first layout whose parts all exist, else the first of which any exists."""
        for rule in (all, any):
            for layout in self.layouts:
                if rule((root / _fixed(p)).is_dir() for sides in layout.values() for p in sides.values()):
                    parts = {k: v for k, v in layout.items() if all((root / _fixed(p)).is_dir() for p in v.values())}
                    patterns = [p for sides in parts.values() for p in sides.values()]
                    if parts and any(True for _ in files(root, patterns[0])):
                        return parts
        return {}


def _photos_or_pairs(
    root: Path, sides: Mapping[str, str], rejected: list[Rejection]
) -> Iterator[tuple[File, File | None]]:
    """Clean photos, or every original with the edited file whose shared words agree (several may share one)."""
    if "clean" in sides:
        yield from ((file, None) for file in files(root, sides["clean"]))
        return
    shared = sorted(set(_words(sides["original"])) & set(_words(sides["edited"])))
    targets: dict[tuple[str, ...], list[File]] = {}
    for file in files(root, sides["edited"]):
        targets.setdefault(tuple(same_name(file.fields[word]) for word in shared), []).append(file)
    used = set()
    for file in files(root, sides["original"]):
        key = tuple(same_name(file.fields[word]) for word in shared)
        partners = targets.get(key, [])
        used.add(key)
        if len(partners) == 1:
            yield file, partners[0]
            continue
        why = f"{len(partners)} edited images match it" if partners else f"no edited image (pattern {sides['edited']})"
        rejected.append(Rejection(_stem(file.path), file.path, "list", why))
    why = f"no original image (pattern {sides['original']})"
    alone = [file for key in targets.keys() - used for file in targets[key]]
    rejected += [Rejection(_stem(file.path), file.path, "list", why) for file in alone]


def _others(root: Path, patterns: Sequence[str]) -> list[str]:
    """Files in the patterns' folders that no pattern takes, and what else lies in the root."""
    folders, taken = {_fixed(pattern) for pattern in patterns}, {f.path for p in patterns for f in files(root, p)}
    found = {entry.path[len(f"{root}/") :] for folder in folders for entry in walk(f"{root}/{folder}")}
    if "" not in folders:
        first = {folder.partition("/")[0] for folder in folders}
        found |= {path.name for path in root.iterdir() if path.name not in first and not path.name.startswith(".")}
    return sorted(found - taken)


def files(root: Path, pattern: str) -> Iterator[File]:
    """Image files below `root` that match, in no order; without hidden ones and linked folders."""
    expression = re.compile(_regex(pattern))
    top = f"{root}/"
    for entry in walk(top + _fixed(pattern)):
        path = entry.path[len(top) :]
        stem = _stem(path)
        found = expression.fullmatch(stem) if path[len(stem) :].lower() in LISTED else None
        if found and not entry.is_dir():
            status = entry.stat(follow_symlinks=False)
            yield File(path, found.groupdict(), status.st_size, status.st_mtime_ns)


def _fixed(pattern: str) -> str:
    """The folders before the first with a word or star."""
    return "/".join(takewhile(lambda part: not set(part) & set("{*"), pattern.split("/")[:-1]))


def _words(pattern: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", pattern)


def _regex(pattern: str) -> str:
    signs = {"**/": r"(?:.*/)?", "*": r"[^/]*"}
    found, seen = "", set()
    for piece in re.split(r"(\{\w+\}|\*\*/|\*)", pattern):
        if piece.startswith("{"):
            word = piece[1:-1]
            part = ".+?" if word == "path" else "[^/]+?"  # the first of two neighbours takes the least
            found += f"(?P={word})" if word in seen else f"(?P<{word}>{part})"
            seen.add(word)
        else:
            found += signs.get(piece) or re.escape(piece)
    return found


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]  # noqa: PTH122  strings: a source may have a million files
