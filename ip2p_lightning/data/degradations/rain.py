"""Rain: streaks of one direction, with a veil."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from ip2p_lightning.data.degradations.base import check_ranges, quantise
from ip2p_lightning.data.image import Image
from ip2p_lightning.errors import UserError


@dataclass(frozen=True)
class Rain:
    """Streaks in depth layers: drops smeared along their fall (Garg & Nayar 2006), composed by a screen blend.

    As in Rain100 (Yang et al. 2017) one direction rules a picture. The layer at relative distance d = 1, 2, ... shows
    streaks d times shorter and thinner, and d times as many of them: what is near is large and rare.

    density: streaks of the nearest layer per 1000 square pixels, within [0, 1000]; 0 is no rain.
    length: streak length in pixels in the nearest layer, within [1, 1000].
    width: standard deviation in pixels across a streak in the nearest layer, within [0.2, 20].
    direction: angle from the vertical in degrees, within [-90, 90]; positive: the lower end lies to the right.
    spread: standard deviation in degrees of single streaks about the direction, within [0, 90].
    opacity: share of a streak's white light along its axis, within [0, 0.99]; 0 is no rain.
    layers: depth layers, 1 to 8. Raises `UserError` on a bad range or number.
    """

    density: tuple[float, float] = (0.9, 2.5)
    length: tuple[float, float] = (20.0, 50.0)
    width: tuple[float, float] = (0.5, 0.9)
    direction: tuple[float, float] = (-30.0, 30.0)
    spread: tuple[float, float] = (0.5, 3.0)
    opacity: tuple[float, float] = (0.7, 0.95)
    layers: int = 2

    def __post_init__(self) -> None:
        check_ranges(self, density=(0, 1000), length=(1, 1000), width=(0.2, 20), direction=(-90, 90))
        check_ranges(self, spread=(0, 90), opacity=(0, 0.99))
        if not 1 <= self.layers <= 8:
            raise UserError(f"Rain.layers: got {self.layers!r}; give a whole number from 1 to 8")

    def __call__(self, clean: Image, rng: np.random.Generator) -> Image:
        density, length, width = (rng.uniform(*r) for r in (self.density, self.length, self.width))
        angle, spread, opacity = (rng.uniform(*r) for r in (self.direction, self.spread, self.opacity))
        depth = np.zeros(clean.shape[:2], dtype=np.float32)  # optical depth of all streaks so far
        for d in range(1, self.layers + 1):
            size = density * d, length / d, max(width / d, 0.4)
            depth += draw_streaks(clean.shape[:2], *size, angle, spread, rng) * -np.log1p(-opacity)
        # screen blend of every streak at once: 1 - (1 - clean) * prod(1 - opacity_k), the product being exp(-depth)
        return quantise(1 - (1 - clean) * np.exp(-depth)[..., None])


def draw_streaks(
    shape: tuple[int, int],
    density: float,
    length: float,
    width: float,
    angle: float,
    spread: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A layer ``[H W]``, float32: about 1 along the axis of a lone streak and 0 far from all. Units as in `Rain`."""
    margin = int(np.ceil(length / 2 + 3 * width))  # streaks centred outside reach in: no thin border
    grid = shape[0] + 2 * margin, shape[1] + 2 * margin
    count = rng.poisson(density * grid[0] * grid[1] / 1000)
    centre = rng.random((count, 1, 2)) * grid
    angles = np.radians(angle + spread * rng.standard_normal((count, 1)))
    bright = rng.uniform(0.5, 1.0, (count, 1))
    steps = np.arange(-(length // 2), length // 2 + 1)
    along = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * steps[None, :, None]
    fade = np.cos(np.pi * steps / (length + 2)) * bright  # a drop enters and leaves the exposure gradually
    splat = _splat(centre + along, fade, grid)
    blurred = scipy.ndimage.gaussian_filter(splat, width, truncate=3.0, mode="constant")
    # a line of unit density blurs to a ridge 1 / (sqrt(2 pi) width) high: scale it back to 1
    return blurred[margin:-margin, margin:-margin] * np.float32(np.sqrt(2 * np.pi) * width)


def _splat(points: np.ndarray, weight: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sum of `weight` [N M] at `points` [N M 2] (row, column) on a grid of `shape`, bilinearly; float32."""
    flat, weight = points.reshape(-1, 2), weight.ravel()
    corner = np.floor(flat).astype(np.int64)
    part = flat - corner
    total = np.zeros(shape[0] * shape[1])
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = corner[:, 0] + dy, corner[:, 1] + dx
        share = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1]) * weight
        inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        total += np.bincount((row * shape[1] + column)[inside], share[inside], minlength=total.size)
    return total.reshape(shape).astype(np.float32)
