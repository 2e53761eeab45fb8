"""Photos of any size: which are edited, where the edits go, and how they fit a model that takes multiples only."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ip2p_lightning.data.image import SUFFIXES
from ip2p_lightning.errors import DataError, UserError

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_STRIDE = 8  # what the data modules cut evaluation images to


class Job(NamedTuple):
    """One photo and where its edit goes."""

    photo: Path
    out: Path


def plan(names: Sequence[str], out: Path | None, overwrite: bool) -> list[Job]:
    """Which photo goes where; decided, and refused, before any model is loaded.

    Raises:
        UserError: nothing to edit, or an output that exists, is named twice or is a photo to be edited.
    """
    photos = list(dict.fromkeys(photo for name in names for photo in _expand(name)))
    if out is None:
        jobs = [Job(photo, photo.with_name(f"{photo.stem}-edit.png")) for photo in photos]
    elif out.suffix.lower() in SUFFIXES and not out.is_dir():
        if out.suffix.lower() != ".png" or len(photos) > 1:
            raise UserError(
                f"-o {out}: edits are written as PNG; give FILE.png for one image, a folder for {len(photos)}"
            )
        jobs = [Job(photos[0], out)]
    else:
        jobs = [Job(photo, out / f"{photo.stem}.png") for photo in photos]
    _check_outputs(jobs, overwrite)
    return jobs


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES and p.is_file()]
        found = [p for p in inside if not p.name.endswith("-edit.png")]
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
    for photo, out in jobs:
        if out.resolve() in photos:
            raise UserError(f"{out} is a photo to be edited; give another -o")
        if out in seen:
            raise UserError(f"{seen[out]} and {photo} would both be written to {out}; edit them in two calls")
        if out.exists() and not (overwrite and out.is_file()):
            raise UserError(f"{out} exists; give --overwrite or another -o")
        seen[out] = photo


@dataclass(frozen=True)
class Fit:
    """How photos of one size meet the model.

    Args:
        size: (width, height) of the photo.
        work: the size it is resampled to; the same as `size` where nothing is.
        model: the size the model sees: `work`, mirrored at the right and the lower edge up to a multiple.
    """

    size: tuple[int, int]
    work: tuple[int, int]
    model: tuple[int, int]

    @classmethod
    def of(cls, pixels: np.ndarray, module: Any, max_side: int | None = None) -> Fit:
        """The fit of a photo ``[H W 3]`` to a model.

        A latent model gets the photo resampled to the multiple below, as diffusers' pipeline does. A model that works
        on the pixels themselves gets it padded: resampling would blur what it is to restore.
        """
        size = (pixels.shape[1], pixels.shape[0])
        scale = min(1.0, max_side / max(size)) if max_side else 1.0
        work = tuple(max(1, round(side * scale)) for side in size) if scale < 1 else size
        stride = module.autoencoder.factor
        if module.autoencoder.model is None:
            stride = int(np.lcm(stride, PIXEL_STRIDE))
            return cls(size, work, tuple(-(-side // stride) * stride for side in work))
        work = tuple(max(stride, side - side % stride) for side in work)
        return cls(size, work, work)

    def to_model(self, pixels: np.ndarray) -> Tensor:  # [H W 3] uint8 -> [3 H' W'] in [-1, 1]
        """The photo as the model sees it."""
        import torch

        work = _resampled(pixels, self.work)
        right, below = (m - w for m, w in zip(self.model, self.work, strict=True))
        padded = np.pad(work, ((0, below), (0, right), (0, 0)), mode="reflect")
        return torch.from_numpy(padded.astype(np.float32) / 255).permute(2, 0, 1) * 2 - 1

    def back(self, edit: Tensor) -> np.ndarray:  # [3 H' W'] in [-1, 1] -> [H W 3] uint8
        """The edit at the photo's own size."""
        from ip2p_lightning.pictures import to_pixels

        width, height = self.work
        return _resampled(to_pixels(edit)[:height, :width], self.size)


def _resampled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
