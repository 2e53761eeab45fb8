"""Image files on disk: finding them, naming them, and keeping the decoded ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ip2p_lightning.data.image import SUFFIXES, open_image
from ip2p_lightning.data.sources.base import SPLITS, Split
from ip2p_lightning.errors import DataError, StorageError, UserError
from ip2p_lightning.system.file_digests import State, state_of


def checked_folder(path: str | os.PathLike[str], what: str) -> Path:
    """`path` as a folder that exists, or a `UserError` that says what it was wanted for."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{what} {folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    return folder


def images_below(folder: Path) -> list[Path]:
    """Every image file below `folder`, sorted by name; hidden files and folders are left out."""
    try:
        found = [Path(entry.path) for entry in walk(folder)]
        return sorted((p for p in found if p.suffix.lower() in SUFFIXES), key=lambda path: path.as_posix())
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}") from None


def walk(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Every file below `folder`, in no order; hidden ones and linked folders are left out."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):  # a linked folder could lead round in a circle, or out
            yield from walk(entry.path)
        elif not entry.is_dir():
            yield entry


def split_folder(root: Path, split: Split) -> Path | None:
    """``root/split`` if there are folders train, val or test, else None. Raises DataError: all but this split's."""
    if not any((root / name).is_dir() for name in SPLITS):
        return None
    if not (root / split).is_dir():
        raise DataError(f"{root}: has no '{split}' folder beside its other splits")
    return root / split


class ImageStore:
    """Decoded images, kept as uint8 until `budget` bytes are full; those that come later are decoded at each call."""

    def __init__(self, budget: int) -> None:
        self.budget, self._left = budget, budget
        self._kept: dict[Path, tuple[State, np.ndarray]] = {}

    def __reduce__(self) -> tuple[type[ImageStore], tuple[int]]:
        return ImageStore, (self.budget,)  # another process decodes for itself

    def open(self, path: Path) -> np.ndarray:
        """The image at `path`, ``[H W 3]`` uint8, not to be written to. Raises `DataError` as `open_image` does."""
        try:
            state = state_of(path)  # before the decoding: a file that changes meanwhile is decoded again
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        kept = self._kept.get(path)
        if kept is not None and kept[0] == state:
            return kept[1]
        image = open_image(path)
        image.setflags(write=False)
        if kept is not None:
            self._left += self._kept.pop(path)[1].nbytes
        if image.nbytes <= self._left:
            self._left -= image.nbytes
            self._kept[path] = state, image
        return image


_STORES: dict[int, ImageStore] = {}


def image_store(memory: float, owner: str) -> ImageStore:
    """The process's store of `memory` megabytes; sources of one budget share it, as tasks on the same photos do."""
    if not 0 <= memory < float("inf"):
        raise UserError(f"{owner}.memory={memory}: give megabytes, 0 or more")
    budget = int(memory * 2**20)
    return _STORES.setdefault(budget, ImageStore(budget))
