"""PSNR and SSIM per image, as restoration papers report them.

Images are [B 3 H W] in [-1, 1]; both sides are rounded to 8 bits first, as if they had been saved and read again.
"""

from __future__ import annotations

import torch
from torch import Tensor

RADIUS = 5  # of SSIM's window
# ITU-R BT.601 as MATLAB's rgb2ycbcr computes it: the reference of the deraining tables.
_BT601 = (65.481 / 255, 128.553 / 255, 24.966 / 255)


def to_eight_bits(x: Tensor) -> Tensor:  # [B 3 H W] in [-1, 1] -> [B 3 H W] in {0, 1/255, ..., 1}
    """The image as stored in an 8-bit file."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255) / 255


def luma(x: Tensor) -> Tensor:  # [B 3 H W] in [0, 1] -> [B 1 H W] in [16/255, 235/255]
    """The Y channel of MATLAB's rgb2ycbcr."""
    weights = torch.tensor(_BT601, device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True) + 16 / 255


def psnr(edit: Tensor, truth: Tensor, y_channel: bool = False) -> Tensor:  # 2 x [B 3 H W] -> [B]
    """Peak signal-to-noise ratio in dB, on RGB or (as deraining papers do) on Y alone; at most 100 dB."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    a, b = _channels(edit, y_channel), _channels(truth, y_channel)
    scores = [peak_signal_noise_ratio(x, y, data_range=1.0) for x, y in zip(a, b, strict=True)]
    return torch.stack(scores).clamp(max=100.0)  # equal images have infinite PSNR, and so would a mean with them


def ssim(edit: Tensor, truth: Tensor, y_channel: bool = False) -> Tensor:  # 2 x [B 3 H W] -> [B]
    """Structural similarity (Wang et al. 2004: Gaussian window 11, sigma 1.5), in [-1, 1].

    As scikit-image and the reference code, the mean is over windows that lie within the image. H and W: 11 or more.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = _channels(edit, y_channel), _channels(truth, y_channel)
    _, similarity = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", return_full_image=True)
    return similarity[..., RADIUS:-RADIUS, RADIUS:-RADIUS].mean((1, 2, 3))  # torchmetrics mirrors the borders


def _channels(x: Tensor, y_channel: bool) -> Tensor:
    x = to_eight_bits(x)
    return luma(x) if y_channel else x
