"""Photos of any size: which are edited, where the edits go, and how they fit a model that takes multiples only."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ip2p_lightning.data.image import SUFFIXES
from ip2p_lightning.data.sources.manifest_reader import cell, records
from ip2p_lightning.errors import DataError, UserError

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_STRIDE = 8  # what the data modules cut evaluation images to


class Job(NamedTuple):
    """One edit: a photo, where the edit goes, and the instruction."""

    photo: Path
    out: Path
    prompt: str


def asked(names: Sequence[str], prompt: str) -> list[tuple[Path, str]]:
    """The photos of files, folders and globs, each with the one instruction.

    Raises:
        DataError: a name that stands for no photo.
    """
    return [(photo, prompt) for photo in dict.fromkeys(photo for name in names for photo in _expand(name))]


def listed(path: Path) -> list[tuple[Path, str]]:
    """The photos and instructions of a ``.csv`` or ``.jsonl`` file with the fields ``photo`` and ``prompt``.

    A photo's path is relative to the file's folder, or absolute; it may come with several instructions.

    Raises:
        UserError: no such file, or of another kind.
        DataError: a line without a photo that exists, or without an instruction; or no line at all.
    """
    found: list[tuple[Path, str]] = []
    for number, record in records(path):
        where = f"{path}, line {number}"
        photo = path.parent / Path(cell(record, "photo", where)).expanduser()
        if not photo.is_file():
            raise DataError(f"{where}: '{record['photo']}': no such file")
        found.append((photo, cell(record, "prompt", where).strip()))
    if not found:
        raise DataError(f"{path}: no line with a photo and a prompt")
    return list(dict.fromkeys(found))


def plan(wanted: Sequence[tuple[Path, str]], out: Path | None, overwrite: bool) -> list[Job]:
    """Which photo goes where; decided, and refused, before any model is loaded.

    Edits of a photo with several instructions are numbered in their order: NAME-1, NAME-2, ...

    Raises:
        UserError: an output that exists, is named twice or is a photo to be edited.
    """
    if out is not None and out.suffix.lower() in SUFFIXES and not out.is_dir():
        if out.suffix.lower() != ".png" or len(wanted) > 1:
            raise UserError(
                f"-o {out}: edits are written as PNG; give FILE.png for one image, a folder for {len(wanted)}"
            )
        jobs = [Job(wanted[0][0], out, wanted[0][1])]
    else:
        jobs = [Job(photo, _out(photo, number, out), prompt) for photo, number, prompt in _numbered(wanted)]
    _check_outputs(jobs, overwrite)
    return jobs


def _numbered(wanted: Sequence[tuple[Path, str]]) -> Iterator[tuple[Path, int | None, str]]:
    counts, seen = Counter(photo for photo, _ in wanted), Counter[Path]()
    for photo, prompt in wanted:
        seen[photo] += 1
        yield photo, seen[photo] if counts[photo] > 1 else None, prompt


def _out(photo: Path, number: int | None, folder: Path | None) -> Path:
    stem = photo.stem if number is None else f"{photo.stem}-{number}"
    return photo.with_name(f"{stem}-edit.png") if folder is None else folder / f"{stem}.png"


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
    for photo, out, _ in jobs:
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
    def of(cls, size: tuple[int, int], module: Any, max_side: int | None = None) -> Fit:
        """The fit of a photo of `size` (width, height) to a model.

        A latent model gets the photo resampled to the multiple below, as diffusers' pipeline does. A model that works
        on the pixels themselves gets it padded: resampling would blur what it is to restore.
        """
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
        from ip2p_lightning.data.contact_sheet import to_pixels

        width, height = self.work
        return _resampled(to_pixels(edit)[:height, :width], self.size)


def _resampled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
