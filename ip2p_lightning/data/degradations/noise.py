"""Noise: Gaussian, Poisson-Gaussian, and a camera's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ip2p_lightning.data.degradations.base import camera_noise, check_ranges, linear_to_srgb, quantise, srgb_to_linear
from ip2p_lightning.data.image import Image
from ip2p_lightning.errors import UserError


@dataclass(frozen=True)
class GaussianNoise:
    """Additive white Gaussian noise (Zhang et al. 2017, DnCNN, "blind" setting).

    sigma: standard deviation in 8-bit units, within [0, 255]. Raises `UserError` on a bad range.
    """

    sigma: tuple[float, float] = (15.0, 50.0)

    def __post_init__(self) -> None:
        check_ranges(self, sigma=(0, 255))

    def __call__(self, clean: Image, rng: np.random.Generator) -> Image:
        sigma = rng.uniform(*self.sigma) / 255
        return quantise(clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32))


@dataclass(frozen=True)
class PoissonGaussianNoise:
    """Sensor noise in linear light, stronger where there is more light (Foi et al. 2008).

    gain: light of one counted photon, full scale 1, within [0, 1]; the signal's share of the variance is gain * light.
    read: standard deviation of the read-out, full scale 1, within [0, 1]. Raises `UserError` on a bad range.
    """

    gain: tuple[float, float] = (0.005, 0.03)
    read: tuple[float, float] = (0.0, 0.02)

    def __post_init__(self) -> None:
        check_ranges(self, gain=(0, 1), read=(0, 1))

    def __call__(self, clean: Image, rng: np.random.Generator) -> Image:
        gain, read = rng.uniform(*self.gain), rng.uniform(*self.read)
        noisy = camera_noise(srgb_to_linear(clean), gain, read, rng)
        return quantise(linear_to_srgb(np.clip(noisy, 0, 1)))


@dataclass(frozen=True)
class SensorNoise:
    """The denoise task's default: per sample, `PoissonGaussianNoise` with probability `poisson`, else `GaussianNoise`.

    sigma, gain, read: as in those two. Raises `UserError` on a bad range or a probability outside [0, 1].
    """

    sigma: tuple[float, float] = (10.0, 45.0)
    gain: tuple[float, float] = (0.005, 0.03)
    read: tuple[float, float] = (0.0, 0.02)
    poisson: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, sigma=(0, 255), gain=(0, 1), read=(0, 1))
        if not 0 <= self.poisson <= 1:
            raise UserError(f"SensorNoise.poisson: got {self.poisson!r}; give a probability within [0, 1]")

    def __call__(self, clean: Image, rng: np.random.Generator) -> Image:
        if rng.random() < self.poisson:
            return PoissonGaussianNoise(self.gain, self.read)(clean, rng)
        return GaussianNoise(self.sigma)(clean, rng)
