"""One geometry for all images of a pair: the same scale, crop and flip, drawn for each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image as PilImage

from ip2p_lightning.data.image import Image
from ip2p_lightning.errors import DataError, UserError

_GAP = 3.0  # beyond a reduction of 3, pixels are averaged in whole blocks first: 6 times faster, no visible difference
MULTIPLE = 8  # sides of whole images are cut to this: the autoencoder's reduction


@dataclass(frozen=True)
class View:
    """How an image becomes a square crop.

    size: side of the crop in pixels; None keeps the whole image, cut around its centre to a multiple of 8.
    resize: the short side is scaled to a whole number drawn from [low, high] pixels before the crop; None leaves the
        scale, except that an image smaller than `size` is enlarged to it. The aspect ratio is kept.
    crop: where the crop lies.
    flip: probability of a left-right flip, within [0, 1].
    raw: uint8 images stay uint8, as `dataset.to_tensor` takes them: a quarter of the bytes to move.
    """

    size: int | None = 64
    resize: tuple[int, int] | None = None
    crop: Literal["random", "center"] = "random"
    flip: float = 0.0
    raw: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UserError(f"size={self.size}: give a positive number of pixels")
        if self.crop not in ("random", "center"):
            raise UserError(f"crop={self.crop}: give random or center")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip={self.flip}: give a probability within [0, 1]")
        if self.resize is not None:
            object.__setattr__(self, "resize", tuple(self.resize))  # a YAML list
            if len(self.resize) != 2 or not (self.size or 1) <= self.resize[0] <= self.resize[1]:
                raise UserError(f"resize={list(self.resize)}: give [low, high] with size={self.size} <= low <= high")

    def __call__(self, images: Sequence[np.ndarray], rng: np.random.Generator) -> list[Image]:
        """The same part of every image ``[H W 3]``, uint8, or float32 in [0, 1]. Raises DataError: their sizes differ.

        Always draws four numbers, whatever the settings: forbidding a flip must not move the crop or the noise after.

        Returns float32 in [0, 1], ``[size size 3]``, or ``[H' W' 3]`` with multiples of 8 where size is None; with
        `raw`, uint8 of uint8, perhaps a view of the image given.
        """
        shapes = dict.fromkeys(image.shape for image in images)
        if len(shapes) != 1:
            raise DataError(f"sizes differ, {' and '.join(f'{s[1]} x {s[0]}' for s in shapes)} pixels")
        scale, left, top, flip = rng.random(4)
        box = self._box(images[0].shape[:2], scale, left, top)
        parts = [_cut(image, *box, mirror=bool(flip < self.flip)) for image in images]
        return parts if self.raw else [as_float(part) for part in parts]

    def _box(self, shape: tuple[int, int], u_scale: float, u_left: float, u_top: float) -> tuple[_Span, _Span]:
        """The rows and the columns to cut, from three uniform draws."""
        if self.size is None and self.resize is None:
            height, width = shape
            return _Span.centred(height, height - height % MULTIPLE), _Span.centred(width, width - width % MULTIPLE)
        short = min(shape)
        if self.resize is None:
            side = max(short, self.size or 1)
        else:
            low, high = self.resize
            side = low + math.floor(u_scale * (high - low + 1))
        scaled = [side if n == short else round(n * side / short) for n in shape]
        cut = [self.size or n - n % MULTIPLE for n in scaled]
        if self.crop == "center" or self.size is None:
            u_top = u_left = 0.5
        start = [math.floor(u * (n - c + 1)) for u, n, c in zip((u_top, u_left), scaled, cut, strict=True)]
        rows, columns = (_Span(*span) for span in zip(shape, scaled, start, cut, strict=True))
        return rows, columns


@dataclass(frozen=True)
class _Span:
    """Pixels `start` to ``start + length`` of one axis that is `full` long, after scaling it to `scaled`."""

    full: int
    scaled: int
    start: int
    length: int

    @classmethod
    def centred(cls, full: int, length: int) -> _Span:
        return cls(full, full, (full - length) // 2, length)

    def source(self) -> tuple[int, int, float, float]:
        """First and last input pixel that Lanczos needs, and the wanted interval within them."""
        ratio = self.full / self.scaled
        low, high = self.start * ratio, (self.start + self.length) * ratio
        reach = math.ceil(3 * max(ratio, 1.0)) + 1  # Lanczos-3 looks three output pixels around
        first, last = max(0, math.floor(low) - reach), min(self.full, math.ceil(high) + reach)
        return first, last, low - first, high - first


def _cut(image: np.ndarray, rows: _Span, columns: _Span, mirror: bool) -> np.ndarray:
    if rows.scaled == rows.full and columns.scaled == columns.full:
        part = image[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]
    else:
        part = _resized(image, rows, columns)
    return part[:, ::-1] if mirror else part


def as_float(image: np.ndarray) -> Image:
    """uint8 in 0..255 to float32 in [0, 1]; what is float already stays what it is."""
    values = np.ascontiguousarray(image, dtype=np.float32)
    return values * np.float32(1 / 255) if image.dtype == np.uint8 else values


def _resized(image: np.ndarray, rows: _Span, columns: _Span) -> np.ndarray:
    """The box, scaled with Lanczos; only the pixels under the filter are touched."""
    r0, r1, top, bottom = rows.source()
    c0, c1, left, right = columns.source()
    part = np.ascontiguousarray(image[r0:r1, c0:c1])
    size, box = (columns.length, rows.length), (left, top, right, bottom)
    if part.dtype == np.uint8:
        return np.asarray(PilImage.fromarray(part).resize(size, PilImage.Resampling.LANCZOS, box, _GAP))
    channels = [PilImage.fromarray(part[:, :, k]) for k in range(part.shape[2])]
    scaled = [np.asarray(c.resize(size, PilImage.Resampling.LANCZOS, box, _GAP)) for c in channels]
    return np.clip(np.stack(scaled, axis=2), 0, 1)  # Lanczos overshoots
