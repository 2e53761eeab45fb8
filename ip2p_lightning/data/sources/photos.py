"""Clean photos, from which a degradation or a teacher makes the other side of the pair."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ip2p_lightning.data.image import FORMATS, Image
from ip2p_lightning.data.sources.base import EmptySplitError, Maker, Split, checked_split, makes
from ip2p_lightning.data.sources.fingerprints import file_hashes, pixel_hashes
from ip2p_lightning.data.sources.image_files import ImageStore, checked_folder, image_store, images_below, split_folder
from ip2p_lightning.data.sources.splits import checked_fractions, empty_split, split_of_group
from ip2p_lightning.data.transforms import View, as_float
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.system.file_digests import Digests

# The colour photographs in the scikit-image wheel. The two motorcycles are one scene: both are in train.
INSTALLED: dict[str, tuple[str, ...]] = {
    "train": (
        "chelsea.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "ihc.png",
        "retina.jpg",
        "hubble_deep_field.jpg",
    ),
    "val": ("rocket.jpg",),
    "test": ("astronaut.png", "coffee.png"),
}


@dataclass(eq=False)
class Photos:
    """Clean photos; the task's degradation or teacher makes the other side from each crop.

    root: a folder; every image file below it is used. If it has folders named train, val and test, these are the
        splits; otherwise a photo goes by the hash of its pixels, so that copies stay together, no photo is in two
        splits, and none moves when others are added. None: nine photos that come with scikit-image, in fixed splits
        (6 train, 1 val, 2 test).
    val, test: fractions of the photos in `root` for validation and testing, within [0, 1).
    memory: megabytes of decoded photos kept, per process and shared between sources.
    """

    root: str | None = None
    val: float = 0.1
    test: float = 0.1
    memory: float = 512

    def __post_init__(self) -> None:
        checked_fractions("Photos", self.val, self.test)
        self._store = image_store(self.memory, "Photos")
        self._splits: dict[Path, Split] = {}

    @property
    def fixed(self) -> bool:
        """Whether the photos and their splits are given."""
        return self.root is None

    def pairs(self, split: Split, make: Maker | None = None) -> PhotoPairs:
        """The photos of a split. Raises UserError: no `make`, no such folder, or scikit-image lacks its photos;
        DataError: no photo for this split.
        """
        checked_split(split)
        if make is None:
            raise UserError("Photos hold one side of a pair only: give a degradation or a teacher, or use data=folder")
        base = _installed_folder() if self.root is None else checked_folder(self.root, "Photos.root")
        return PhotoPairs(base, self._files(base, split), make, self._store)

    def _files(self, base: Path, split: Split) -> list[Path]:
        if self.root is None:
            return [base / name for name in INSTALLED[split]]
        if own := split_folder(base, split):
            if not (files := images_below(own)):
                raise EmptySplitError(f"{own}: no photo (looked for {', '.join(FORMATS)})")
            return files
        self._splits = self._splits or self._divided(base)
        if not (files := [path for path, place in self._splits.items() if place == split]):
            raise empty_split(base, "photo", split, "folders train, val and test")
        return files

    def _divided(self, base: Path) -> dict[Path, Split]:
        files = images_below(base)
        if not files:
            raise DataError(f"{base}: no photo (looked for {', '.join(FORMATS)})")
        hashes = pixel_hashes(files)
        return {path: split_of_group(hashes[str(path)], self.val, self.test) for path in files}


def _installed_folder() -> Path:
    spec = importlib.util.find_spec("skimage")  # finds the package without importing it
    folder = Path(next(iter(spec.submodule_search_locations or []), "")) / "data" if spec else None
    missing = [n for names in INSTALLED.values() for n in names if folder is None or not (folder / n).is_file()]
    if folder is None or missing:
        which = f"lacks {missing[0]}" if folder else "is not installed"
        raise UserError(f"the photos of scikit-image: the package {which}; install scikit-image, or set data.root=DIR")
    return folder


class PhotoPairs:
    """Photos of one split and what is made from them."""

    def __init__(self, base: Path, files: list[Path], make: Maker, store: ImageStore) -> None:
        self._base, self._files, self.make, self._store = base, files, make, store

    def __len__(self) -> int:
        return len(self._files)

    def id(self, i: int) -> str:
        """Path below the root, with forward slashes."""
        return self._files[i].relative_to(self._base).as_posix()

    def prompt(self, i: int) -> None:
        """None: photos have no instruction of their own."""

    def pair(self, i: int, rng: np.random.Generator, view: View) -> tuple[Image, Image]:
        """``(original, edited)``. The maker works on the crop: it costs what the crop costs, not the photo."""
        photo = as_float(view([self._store.open(self._files[i])], rng)[0])
        made = self.make(photo, rng)
        return (photo, made) if makes(self.make) == "edited" else (made, photo)

    def sources(self, i: int) -> tuple[Path | bytes, ...]:
        return (self._files[i],)

    def contents(self, digests: Digests) -> dict[str, str]:
        return file_hashes({self.id(i): path for i, path in enumerate(self._files)}, digests)
