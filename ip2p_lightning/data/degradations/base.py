"""Parts of the degradations of a clean photo (camera noise, rain, low light), drawn for every sample.

A degradation maps an image ``[H W 3]`` (float32, sRGB in [0, 1]) and a generator to a degraded image of the same shape,
rounded to 8 bits as a real file would be. It is a pure function of the two: no global randomness. The degraded image is
the pair's `original`, the clean one its `edited`. Every range ``(low, high)`` is drawn from uniformly, once per call.
"""

from __future__ import annotations

import numpy as np

from ip2p_lightning.data.image import Image
from ip2p_lightning.errors import UserError


def quantise(image: Image) -> Image:
    """`image` clipped to [0, 1] and rounded to the 256 levels of an 8-bit file, float32."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.float32) / np.float32(255)


def srgb_to_linear(image: Image) -> Image:
    """Linear light in [0, 1] of an sRGB image in [0, 1] (IEC 61966-2-1)."""
    return np.where(image <= 0.04045, image / 12.92, ((np.maximum(image, 0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: Image) -> Image:
    """sRGB image in [0, 1] of linear light in [0, 1] (IEC 61966-2-1); the inverse of `srgb_to_linear`."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def check_ranges(owner: object, **bounds: tuple[float, float]) -> None:
    """Make each field of `owner` a tuple ``(a, b)`` of floats with ``low <= a <= b <= high``, or raise `UserError`."""
    for name, (low, high) in bounds.items():
        value, where = getattr(owner, name), f"{type(owner).__name__}.{name}"
        pair = isinstance(value, list | tuple) and len(value) == 2
        if not pair or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
            raise UserError(f"{where}: expected two numbers [low, high], got {value!r}")
        if not low <= value[0] <= value[1] <= high:
            raise UserError(f"{where}: got {list(value)}; give low <= high, both within [{low:g}, {high:g}]")
        object.__setattr__(owner, name, (float(value[0]), float(value[1])))  # a YAML list, in a frozen dataclass


def camera_noise(light: Image, gain: float, read: float, rng: np.random.Generator) -> Image:
    """Linear light as a sensor counts it: ``var = gain * light + read**2`` (Foi et al. 2008, eq. 3). Not clipped."""
    noisy = gain * rng.poisson(light / gain).astype(np.float32) if gain > 0 else light
    return noisy + read * rng.standard_normal(light.shape, dtype=np.float32) if read > 0 else noisy
