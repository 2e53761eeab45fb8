"""Image files on disk: finding them, naming them, and keeping the decoded ones."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from ip2p_lightning.data.image import FORMATS, SUFFIXES, UNREAD, open_image
from ip2p_lightning.data.sources.base import SPLITS, EmptySplitError, Split
from ip2p_lightning.errors import DataError, StorageError, UserError
from ip2p_lightning.system.file_digests import State, state_of


def checked_folder(path: str | os.PathLike[str], what: str) -> Path:
    """`path` as a folder that exists, or a `UserError` that says what it was wanted for."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{what} {folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    return folder


def images_below(folder: Path) -> list[Path]:
    """Every image file below `folder`, sorted by name, without hidden ones; other files are named in a warning.

    Raises DataError: an image of a kind that is not read.
    """
    images, others = list[Path](), list[str]()
    try:
        for entry in walk(folder):
            path = Path(entry.path)
            if path.suffix.lower() in SUFFIXES and not entry.is_dir():
                images.append(path)
            else:
                others.append(path.relative_to(folder).as_posix())
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}") from None
    for name in sorted(others):
        refuse_unread(name, str(folder / name))
    name_left_out(folder, sorted(others))
    return sorted(images, key=lambda path: path.as_posix())


def refuse_unread(path: str | Path, where: str) -> None:
    """Raise DataError, naming `where`, for an image of a kind that is not read, by its name."""
    ending = os.path.splitext(path)[1].lower()  # noqa: PTH122  a manifest may have a million lines
    if ending in UNREAD:
        raise DataError(f"{where}: {ending} is not read, only {', '.join(FORMATS)}; convert it, or put it elsewhere")


def name_left_out(folder: str | Path, names: Sequence[str]) -> None:
    """Warn, once a process, of what in `folder` is not used."""
    if names:
        first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        warn_once(f"{folder}: {len(names)} {'file is' if len(names) == 1 else 'files are'} not used: {first}")


@cache
def warn_once(line: str) -> None:
    """Warn of something that every split and task would say again."""
    warnings.warn(line, stacklevel=1)


def walk(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Every file and linked folder below `folder`, in no order, without hidden ones."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):  # a linked folder could lead round in a circle, or out
            yield from walk(entry.path)
        else:
            yield entry


def split_folder(root: Path, split: Split, used: Sequence[str] = ()) -> Path | None:
    """``root/split`` if there are folders train, val or test, else None; what lies beside the used ones is named.

    used: names in the split's folder, or in the root, that are read; none: all. Raises EmptySplitError: there are
    folders of other splits only.
    """
    splits = [name for name in SPLITS if (root / name).is_dir()]
    for folder in [root / name for name in splits] or [root]:
        _name_others(folder, used)
    if not splits:
        return None
    _name_others(root, SPLITS)
    if split not in splits:
        raise EmptySplitError(f"{root}: has no '{split}' folder beside its other splits; add one, or remove those")
    return root / split


def _name_others(folder: Path, used: Sequence[str]) -> None:
    if used:
        names = (path.name for path in folder.iterdir() if path.name not in used and not path.name.startswith("."))
        name_left_out(folder, sorted(names))


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
