"""Folders as their authors packed them, described by patterns of file names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ip2p_lightning.curation.sources.base import Candidate, Listing, Refusal, read_inside, source_folder, without_twins
from ip2p_lightning.data.image import SUFFIXES
from ip2p_lightning.data.sources.image_files import walk
from ip2p_lightning.data.sources.splits import checked_fractions
from ip2p_lightning.errors import UserError, suggest

LISTED = SUFFIXES | {".avif", ".heic", ".heif", ".jxl", ".jp2", ".ppm", ".tga"}  # the latter are refused by name
SIDES = ("original", "edited", "clean")
PARTS = {"train": "train", "val": "val", "test": "test", "any": None}  # any: divided by hash


class File(NamedTuple):
    """A file that fits a pattern."""

    path: str
    fields: dict[str, str]
    bytes: int
    stamp: int


class FolderOrigin:
    """Images below a folder, found and matched by patterns.

    A pattern is a path without its ending, such as ``train/{scene}/blur/{name}``. ``{word}`` stands for a part of a
    name, and ``{path}`` also for folders; two files whose words agree are a pair; files with one ``{scene}`` stay in
    one split; ``*`` stands for any part of a name, and ``**/`` for any folders.

    Args:
        name: of the dataset.
        root: the folder.
        layouts: the ways it is packed; the first of them that is found is used. Each maps a split (train, val, test,
            or any: divided by hash) to patterns: ``original`` and ``edited``, or ``clean`` for photos from which the
            task makes the other side.
        val: fraction for validation, of what is published as training data if there is no published validation set.
        test: likewise for testing.
        get: what to download and where to put it; shown when it is missing.
        size: how large it is.
        home: where its authors describe it.
        licence: its terms.
        citation: the paper.
        overlaps: what it is known to share with other datasets.
    """

    def __init__(
        self,
        name: str,
        root: str,
        layouts: Sequence[Mapping[str, Mapping[str, str]]],
        val: float = 0.0,
        test: float = 0.0,
        get: str = "",
        size: str = "",
        home: str = "",
        licence: str = "",
        citation: str = "",
        overlaps: str = "",
    ) -> None:
        checked_fractions(f"source {name}", val, test)
        for key, side in [(key, side) for layout in layouts for key, sides in layout.items() for side in sides]:
            if key not in PARTS or side not in SIDES:
                known = f"give {', '.join(PARTS)} with {', '.join(SIDES)}"
                raise UserError(f"source.layouts: {key}.{side}{suggest(key, PARTS)}: {known}")
        self.name, self.root, self.layouts, self.val, self.test = name, root, list(layouts), val, test
        self.get, self.size = get, size
        self._facts = {"home": home, "licence": licence, "citation": citation, "overlaps": overlaps}
        self._real_root = os.path.realpath(Path(root).expanduser())

    def facts(self) -> dict[str, str]:
        return {key: value for key, value in self._facts.items() if value}

    def read(self, place: str, limit: int) -> bytes:
        return read_inside(self._real_root, place, limit)

    def list(self) -> Listing:
        advice = f"{self.name}: {self.get}" + (f" ({self.size})" if self.size else "")
        root = source_folder(self.root, advice)
        candidates, refused = list[Candidate](), list[Refusal]()
        for part, sides in self._found(root).items():
            listed = _photos(root, sides["clean"]) if "clean" in sides else _pairs(root, sides, refused)
            candidates += [c._replace(split=PARTS[part], scene=_scene(c, part)) for c in listed]
        if not candidates:
            wanted = ", ".join(p for layout in self.layouts for sides in layout.values() for p in sides.values())
            raise UserError(f"{self.root}: nothing laid out as {wanted}; {advice}")
        return Listing(without_twins(candidates, refused), sorted(refused))

    def _found(self, root: Path) -> Mapping[str, Mapping[str, str]]:
        """The first layout of which every part is there, else the first of which any is."""
        for rule in (all, any):
            for layout in self.layouts:
                if rule((root / _fixed(p)).is_dir() for sides in layout.values() for p in sides.values()):
                    parts = {k: v for k, v in layout.items() if all((root / _fixed(p)).is_dir() for p in v.values())}
                    if parts and next(files(root, next(iter(next(iter(parts.values())).values()))), None):
                        return parts
        return {}


def _scene(candidate: Candidate, part: str) -> str | None:
    """Scenes of one number in two published splits are different scenes (REDS numbers both from 000)."""
    return f"{part}/{candidate.scene}" if candidate.scene else None


def _photos(root: Path, pattern: str) -> Iterator[Candidate]:
    for file in files(root, pattern):
        scene = file.fields.get("scene")
        yield Candidate(_stem(file.path), file.path, None, scene=scene, bytes=file.bytes, stamp=file.stamp)


def _pairs(root: Path, sides: Mapping[str, str], refused: list[Refusal]) -> Iterator[Candidate]:
    """Every original with the one edited file whose shared words agree (several originals may share one)."""
    shared = sorted(set(_words(sides["original"])) & set(_words(sides["edited"])))
    targets: dict[tuple[str, ...], list[File]] = {}
    for file in files(root, sides["edited"]):
        targets.setdefault(tuple(file.fields[word] for word in shared), []).append(file)
    used = set()
    for file in files(root, sides["original"]):
        key = tuple(file.fields[word] for word in shared)
        partners = targets.get(key, [])
        if len(partners) != 1:
            why = (
                f"{len(partners)} edited images fit it" if partners else f"no edited image (pattern {sides['edited']})"
            )
            refused.append(Refusal(_stem(file.path), file.path, "list", why))
            used.add(key)
            continue
        used.add(key)
        other = partners[0]
        size, stamp = file.bytes + other.bytes, file.stamp ^ (other.stamp << 1)
        scene = file.fields.get("scene")
        yield Candidate(_stem(file.path), file.path, other.path, scene=scene, bytes=size, stamp=stamp)
    for key in targets.keys() - used:
        for file in targets[key]:
            why = f"no original image (pattern {sides['original']})"
            refused.append(Refusal(_stem(file.path), file.path, "list", why))


def files(root: Path, pattern: str) -> Iterator[File]:
    """Image files below `root` that fit, in no order. Hidden ones and linked folders are passed by."""
    fits = re.compile(_regex(pattern))
    top = f"{root}/"
    for entry in walk(top + _fixed(pattern)):
        path = entry.path[len(top) :]
        stem = _stem(path)
        found = fits.fullmatch(stem) if path[len(stem) :].lower() in LISTED else None
        if found:
            status = entry.stat(follow_symlinks=False)
            yield File(path, found.groupdict(), status.st_size, status.st_mtime_ns)


def _fixed(pattern: str) -> str:
    """The folders before the first that varies."""
    kept = []
    for part in pattern.split("/")[:-1]:
        if "{" in part or "*" in part:
            break
        kept.append(part)
    return "/".join(kept)


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
