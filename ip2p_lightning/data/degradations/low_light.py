"""Low light: exposure, gamma and the noise of a dark photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ip2p_lightning.data.degradations.base import camera_noise, check_ranges, linear_to_srgb, quantise, srgb_to_linear
from ip2p_lightning.data.image import Image


@dataclass(frozen=True)
class LowLight:
    """An under-exposed photo: less light, drifted white balance, and the noise of few photons, in linear light.

    The photo is unprocessed to linear light (Brooks et al. 2019), exposed again, counted by a sensor (shot and read
    noise: Wei et al. 2020, eq. 4-6, without row noise) and developed again.

    exposure: change in stops, within [-12, 0]; -3 is an eighth of the light, 0 leaves it.
    gamma: exponent on the developed sRGB values, within [0.2, 5]; above 1 deepens the shadows, 1 leaves them.
    white_balance: gain of red, and independently of blue, against green, within [0.2, 5]; 1 leaves the colours.
    shot, read: light of one photon, and standard deviation of the read-out, full scale 1, within [0, 1].
    Raises `UserError` on a bad range.
    """

    exposure: tuple[float, float] = (-4.5, -2.5)
    gamma: tuple[float, float] = (1.0, 1.2)
    white_balance: tuple[float, float] = (0.9, 1.1)
    shot: tuple[float, float] = (0.0001, 0.001)
    read: tuple[float, float] = (0.0002, 0.001)

    def __post_init__(self) -> None:
        check_ranges(self, exposure=(-12, 0), gamma=(0.2, 5), white_balance=(0.2, 5), shot=(0, 1), read=(0, 1))

    def __call__(self, clean: Image, rng: np.random.Generator) -> Image:
        exposure, gamma, shot, read = (rng.uniform(*r) for r in (self.exposure, self.gamma, self.shot, self.read))
        balance = np.array([rng.uniform(*self.white_balance), 1, rng.uniform(*self.white_balance)], dtype=np.float32)
        light = np.clip(srgb_to_linear(clean) * (np.float32(2**exposure) * balance), 0, 1)
        dark = linear_to_srgb(np.clip(camera_noise(light, shot, read, rng), 0, 1))
        return quantise(dark**gamma)
