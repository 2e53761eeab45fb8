"""Two folders of images, matched by name; and pairs of two files each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ip2p_lightning.data.image import FORMATS, Image
from ip2p_lightning.data.sources.base import EmptySplitError, Maker, Split, checked_split, viewed_pair
from ip2p_lightning.data.sources.fingerprints import file_hashes, pixel_hashes, text_hash
from ip2p_lightning.data.sources.image_files import ImageStore, checked_folder, image_store, images_below, split_folder
from ip2p_lightning.data.sources.manifest_reader import same_name
from ip2p_lightning.data.sources.splits import checked_fractions, empty_split, splits_of_pairs
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError
from ip2p_lightning.system.file_digests import Digests


@dataclass(eq=False)
class Folder:
    """``root/input/NAME.*`` before the edit, ``root/target/NAME.*`` after it.

    root: the folder. If it has folders named train, val and test, each holds its own `input` and `target`; otherwise
        pairs are split by the hash of the original's pixels; pairs with one original (several edits) or one target
        (rain on one scene) stay together.
    input, target: names of the folders of originals and of edited images.
    prompt: one instruction for all pairs; None draws from the task's prompts.
    val, test: fractions for validation and testing, within [0, 1).
    memory: megabytes of decoded images kept, per process and shared between sources.
    """

    root: str
    input: str = "input"
    target: str = "target"
    prompt: str | None = None
    val: float = 0.1
    test: float = 0.1
    memory: float = 512

    def __post_init__(self) -> None:
        checked_fractions("Folder", self.val, self.test)
        self._store = image_store(self.memory, "Folder")
        self._rows: list[Row] = []

    def pairs(self, split: Split, make: Maker | None = None) -> FilePairs:
        """The pairs of a split. Raises UserError: no such folder; DataError: it is empty, or one has no partner."""
        checked_split(split)
        root = checked_folder(self.root, "Folder.root")
        if own := split_folder(root, split, (self.input, self.target)):
            return FilePairs(self._matched(own), self._store)
        self._rows = self._rows or divided(self._matched(root), self.val, self.test)
        rows = [row for row in self._rows if row.split == split]
        if not rows:
            raise empty_split(root, "pair", split, "folders train, val and test")
        return FilePairs(rows, self._store)

    def _matched(self, root: Path) -> list[Row]:
        inputs = _by_stem(checked_folder(root / self.input, "Folder.input"))
        targets = _by_stem(checked_folder(root / self.target, "Folder.target"))
        for mine, others, other in ((inputs, targets, self.target), (targets, inputs, self.input)):
            for stem in sorted(mine.keys() - others.keys()):
                raise DataError(f"{mine[stem]}: no image named '{stem}' in '{other}'; add it or remove this one")
        return [Row(stem, str(inputs[stem]), str(targets[stem]), self.prompt) for stem in sorted(inputs)]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in images_below(folder):
        stem = same_name(path.relative_to(folder).with_suffix("").as_posix())
        if stem in found:
            raise DataError(f"{path}: same name as {found[stem].name}; which of the two is meant?")
        found[stem] = path
    if not found:
        raise EmptySplitError(f"{folder}: no image (looked for {', '.join(FORMATS)})")
    return found


class Row(NamedTuple):
    """A pair of files; paths are strings, because a manifest may have a million lines."""

    id: str
    original: str
    edited: str
    prompt: str | None
    split: str | None = None


def divided(rows: Sequence[Row], val: float, test: float) -> list[Row]:
    """The rows, each with a split by the pixels of its images."""
    hashes = pixel_hashes(path for row in rows for path in (row.original, row.edited))
    splits = splits_of_pairs([(hashes[row.original], hashes[row.edited]) for row in rows], val, test)
    return [row._replace(split=split) for row, split in zip(rows, splits, strict=True)]


class FilePairs:
    """Pairs of two files each."""

    def __init__(self, rows: Sequence[Row], store: ImageStore) -> None:
        self._rows, self._store = rows, store

    def __len__(self) -> int:
        return len(self._rows)

    def id(self, i: int) -> str:
        """The name that both files of a folder share; of a manifest the ``id`` column, or both paths as written."""
        return self._rows[i].id

    def prompt(self, i: int) -> str | None:
        """The folder's one instruction, or the line's own."""
        return self._rows[i].prompt

    def pair(self, i: int, rng: np.random.Generator, view: View) -> tuple[Image, Image]:
        """``(original, edited)``; `DataError` naming both files if they differ in size."""
        files = self.sources(i)
        return viewed_pair([self._store.open(file) for file in files], " and ".join(map(str, files)), rng, view)

    def sources(self, i: int) -> tuple[Path, Path]:
        return Path(self._rows[i].original), Path(self._rows[i].edited)

    def contents(self, digests: Digests) -> dict[str, str]:
        """Hashes of both files and of the instruction of every pair."""
        files = {f"{row.id} (original)": row.original for row in self._rows}
        files |= {f"{row.id} (edited)": row.edited for row in self._rows}
        prompts = {f"{row.id} (prompt)": text_hash(row.prompt) for row in self._rows if row.prompt is not None}
        return file_hashes(files, digests) | prompts
