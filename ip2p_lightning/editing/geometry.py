"""Resize or pad a photo to a size the model accepts, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ip2p_lightning.data.contact_sheet import to_pixels

PIXEL_STRIDE = 8  # what the data modules cut evaluation images to


@dataclass(frozen=True)
class Fit:
    """The size of a photo and its size in the model."""

    size: tuple[int, int]  # (width, height) of the photo
    work: tuple[int, int]  # what it is resampled to
    model: tuple[int, int]  # what the model sees: `work`, mirrored at the right and the lower edge up to a multiple

    @classmethod
    def of(cls, size: tuple[int, int], module: Any, max_side: int | None = None) -> Fit:
        """The fit of a photo of `size` (width, height) to a model.

        A latent model gets the photo resampled to the multiple below, as diffusers' pipeline does. A model that works
        on the pixels themselves gets it padded: resampling would blur what it is to restore.
        """
        scale = min(1.0, max_side / max(size)) if max_side else 1.0
        height, width = (max(1, round(side * scale)) for side in size) if scale < 1 else size
        stride = module.autoencoder.factor
        if module.autoencoder.model is None:
            stride = int(np.lcm(stride, PIXEL_STRIDE))
            return cls(size, (height, width), (-(-height // stride) * stride, -(-width // stride) * stride))
        work = max(stride, height - height % stride), max(stride, width - width % stride)
        return cls(size, work, work)

    def to_model(self, pixels: np.ndarray) -> Tensor:  # [H W 3] uint8 -> [3 H' W'] in [-1, 1]
        """The photo as the model sees it."""
        work = _resampled(pixels, self.work)
        right, below = (m - w for m, w in zip(self.model, self.work, strict=True))
        padded = np.pad(work, ((0, below), (0, right), (0, 0)), mode="reflect")
        return torch.from_numpy(padded.astype(np.float32) / 255).permute(2, 0, 1) * 2 - 1

    def back(self, edit: Tensor) -> np.ndarray:  # [3 H' W'] in [-1, 1] -> [H W 3] uint8
        """The edit at the photo's own size."""
        width, height = self.work
        return _resampled(to_pixels(edit)[:height, :width], self.size)


def _resampled(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
