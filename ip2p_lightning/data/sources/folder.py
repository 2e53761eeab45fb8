"""Two folders of images, matched by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ip2p_lightning.data.image import Image
from ip2p_lightning.data.sources.base import Maker, Split, checked_split
from ip2p_lightning.data.sources.fingerprints import file_hashes
from ip2p_lightning.data.sources.image_files import ImageStore, checked_folder, image_store, images_below, split_folder
from ip2p_lightning.data.sources.splits import checked_fractions, fingerprint, split_groups
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError
from ip2p_lightning.system.file_digests import Digests


class Folder:
    """``root/input/NAME.*`` before the edit, ``root/target/NAME.*`` after it.

    Args:
        root: the folder. If it has folders named train, val and test, each holds its own `input` and `target`;
            otherwise pairs are split by the hash of the target's content, so that several inputs with one and the same
            target (rain on one scene) stay together.
        input: name of the folder of originals.
        target: name of the folder of edited images.
        prompt: one instruction for all pairs; None draws from the task's prompts.
        val: fraction for validation, within [0, 1).
        test: fraction for testing, within [0, 1).
        memory: megabytes of decoded images kept, per process and shared between sources.
    """

    def __init__(
        self,
        root: str,
        input: str = "input",
        target: str = "target",
        prompt: str | None = None,
        val: float = 0.1,
        test: float = 0.1,
        memory: float = 512,
    ) -> None:
        checked_fractions("Folder", val, test)
        self.root, self.input, self.target, self.prompt = root, input, target, prompt
        self.val, self.test = val, test
        self._store = image_store(memory, "Folder")

    def pairs(self, split: Split, make: Maker | None = None) -> FilePairs:
        """The pairs of a split; `make` is not used, both sides are here.

        Raises:
            UserError: no such folder.
            DataError: a folder is empty, or an image has no partner.
        """
        checked_split(split)
        root = checked_folder(self.root, "Folder.root")
        own = split_folder(root, split)
        matched = self._matched(own or root)
        if not own:
            groups = {stem: fingerprint(target) for stem, (_, target) in matched.items()}
            place = split_groups(list(groups.values()), self.val, self.test, str(root))
            matched = {stem: pair for stem, pair in matched.items() if place[groups[stem]] == split}
        if not matched:
            raise DataError(f"{root}: no pair for '{split}'")
        return FilePairs(matched, self.prompt, self._store)

    def _matched(self, root: Path) -> dict[str, tuple[Path, Path]]:
        inputs = _by_stem(checked_folder(root / self.input, "Folder.input"))
        targets = _by_stem(checked_folder(root / self.target, "Folder.target"))
        for mine, others, other in ((inputs, targets, self.target), (targets, inputs, self.input)):
            for stem in sorted(mine.keys() - others.keys()):
                raise DataError(f"{mine[stem]}: no image named '{stem}' in '{other}'; add it or remove this one")
        return {stem: (inputs[stem], targets[stem]) for stem in sorted(inputs)}


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in images_below(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DataError(f"{path}: same name as {found[stem].name}; which of the two is meant?")
        found[stem] = path
    if not found:
        raise DataError(f"{folder}: no image (looked for PNG, JPEG, WebP, BMP, TIFF and GIF)")
    return found


class FilePairs:
    """Pairs of two files each, named by their keys."""

    def __init__(self, files: Mapping[str, tuple[Path, Path]], prompt: str | None, store: ImageStore) -> None:
        self._ids, self._files = list(files), list(files.values())
        self._prompt, self._store = prompt, store

    def __len__(self) -> int:
        return len(self._ids)

    def id(self, i: int) -> str:
        """The name both files share."""
        return self._ids[i]

    def prompt(self, i: int) -> str | None:
        """The one instruction of the folder, if it has one."""
        return self._prompt

    def pair(self, i: int, rng: np.random.Generator, view: View) -> tuple[Image, Image]:
        """``(original, edited)``; `DataError` naming both files if they differ in size."""
        return paired_view(*self._files[i], self._store, rng, view)

    def sources(self, i: int) -> tuple[Path | bytes, ...]:
        """Both files."""
        return self._files[i]

    def contents(self, digests: Digests) -> dict[str, str]:
        """Hashes of both files of every pair."""
        return pair_hashes(dict(zip(self._ids, self._files, strict=True)), digests)


def pair_hashes(files: Mapping[str, tuple[str | Path, str | Path]], digests: Digests) -> dict[str, str]:
    """Hashes of both files of every pair, by the pair's name and side."""
    originals = {f"{name} (original)": original for name, (original, _) in files.items()}
    return file_hashes(originals | {f"{name} (edited)": edited for name, (_, edited) in files.items()}, digests)


def paired_view(
    original: Path, edited: Path, store: ImageStore, rng: np.random.Generator, view: View
) -> tuple[Image, Image]:
    """Both files under one geometry; never stretched to fit: `DataError` with both sizes if they differ."""
    before, after = store.open(original), store.open(edited)
    check_sizes(before, after, f"{original} and {edited}")
    first, second = view([before, after], rng)
    return first, second


def check_sizes(before: np.ndarray, after: np.ndarray, name: str) -> None:
    """Refuse a pair whose two images differ in size."""
    if before.shape != after.shape:
        sizes = " and ".join(f"{image.shape[1]} x {image.shape[0]}" for image in (before, after))
        raise DataError(f"{name}: sizes differ, {sizes} pixels; crop or resize them yourself, or remove the pair")
