"""Sizes a generator takes: reduced by area, padded to multiples, and back. Images are [H W 3] in [0, 1], float32."""

from __future__ import annotations

import numpy as np

from ip2p_lightning.data.degradations.base import quantise
from ip2p_lightning.data.image import Image


def reduce(photo: Image, short_side: int | None) -> Image:
    """`photo` with its shorter side at most `short_side`, by averaging areas, rounded to 8 bits.

    As White-box Cartoonization's ``resize_crop`` and the original experiment: the longer side is rounded down.
    """
    height, width = photo.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return photo
    size = (short_side * height // width, short_side) if height > width else (short_side, short_side * width // height)
    return quantise(_average(_average(photo, size[0], 0), size[1], 1))


def _average(image: Image, size: int, axis: int) -> Image:
    """Means over `size` equal, fractional lengths of `axis`: OpenCV's INTER_AREA, from the running integral."""
    length = image.shape[axis]
    integral = np.cumsum(np.moveaxis(image, axis, 0), axis=0, dtype=np.float64)
    integral = np.concatenate([np.zeros_like(integral[:1]), integral])
    edge = np.arange(size + 1) * (length / size)
    whole = np.minimum(edge.astype(int), length - 1)
    part = (edge - whole).reshape(-1, *[1] * (image.ndim - 1))
    at_edge = integral[whole] + part * (integral[whole + 1] - integral[whole])
    return np.moveaxis(np.diff(at_edge, axis=0) / (length / size), 0, axis).astype(np.float32)


def pad(photo: Image, multiple: int) -> Image:
    """`photo` with its last row and column repeated until both sides are multiples."""
    height, width = photo.shape[:2]
    return np.pad(photo, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")


def enlarge(image: Image, size: tuple[int, int]) -> Image:
    """`image` at `size` (H, W), bicubic, rounded to 8 bits; itself where that is its size."""
    if image.shape[:2] == tuple(size):
        return image
    import torch
    from torch.nn.functional import interpolate

    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    return quantise(interpolate(x, size, mode="bicubic", align_corners=False)[0].numpy().transpose(1, 2, 0))
