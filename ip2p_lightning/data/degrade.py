"""What spoils a clean photo: camera noise, rain and low light, each drawn anew for every sample.

A degradation maps an image ``[H W 3]`` (float32, sRGB in [0, 1]) and a generator to a spoiled image of the same shape,
rounded to 8 bits as a real file would be. It is a pure function of the two: no global randomness. The spoiled image is
the pair's `original`, the clean one its `edited`. Every range ``(low, high)`` is drawn from uniformly, once per call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its submodules come when they are first used

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


def checked_range(owner: object, name: str, low: float, high: float) -> None:
    """Make ``owner.name`` a tuple ``(a, b)`` of floats with ``low <= a <= b <= high``; `UserError` if it is not one."""
    value = getattr(owner, name)
    where = f"{type(owner).__name__}.{name}"
    numbers = isinstance(value, (list, tuple)) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in value
    )
    if not numbers or len(value) != 2:
        raise UserError(f"{where}: expected two numbers [low, high], got {value!r}")
    if not low <= value[0] <= value[1] <= high:
        raise UserError(f"{where}: got {list(value)}; give low <= high, both within [{low:g}, {high:g}]")
    object.__setattr__(owner, name, (float(value[0]), float(value[1])))  # a YAML list, in a frozen dataclass


def camera_noise(light: Image, gain: float, read: float, rng: np.random.Generator) -> Image:
    """Linear light as a sensor counts it: ``var = gain * light + read**2`` (Foi et al. 2008, eq. 3). Not clipped."""
    noisy = gain * rng.poisson(light / gain).astype(np.float32) if gain > 0 else light
    return noisy + read * rng.standard_normal(light.shape, dtype=np.float32) if read > 0 else noisy


@dataclass(frozen=True)
class GaussianNoise:
    """Additive white Gaussian noise (Zhang et al. 2017, DnCNN, "blind" setting).

    sigma: standard deviation in 8-bit units, within [0, 255]. Raises `UserError` on a bad range.
    """

    sigma: tuple[float, float] = (15.0, 50.0)

    def __post_init__(self) -> None:
        checked_range(self, "sigma", 0, 255)

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
        checked_range(self, "gain", 0, 1)
        checked_range(self, "read", 0, 1)

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
        checked_range(self, "sigma", 0, 255)
        checked_range(self, "gain", 0, 1)
        checked_range(self, "read", 0, 1)
        if not 0 <= self.poisson <= 1:
            raise UserError(f"SensorNoise.poisson: got {self.poisson!r}; give a probability within [0, 1]")

    def __call__(self, clean: Image, rng: np.random.Generator) -> Image:
        if rng.random() < self.poisson:
            return PoissonGaussianNoise(self.gain, self.read)(clean, rng)
        return GaussianNoise(self.sigma)(clean, rng)


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
        bounds = {"density": (0, 1000), "length": (1, 1000), "width": (0.2, 20), "direction": (-90, 90)}
        for name, (low, high) in (bounds | {"spread": (0, 90), "opacity": (0, 0.99)}).items():
            checked_range(self, name, low, high)
        if not 1 <= self.layers <= 8:
            raise UserError(f"Rain.layers: got {self.layers!r}; give a whole number from 1 to 8")

    def __call__(self, clean: Image, rng: np.random.Generator) -> Image:
        density, length, width = (rng.uniform(*r) for r in (self.density, self.length, self.width))
        angle, spread, opacity = (rng.uniform(*r) for r in (self.direction, self.spread, self.opacity))
        depth = np.zeros(clean.shape[:2], dtype=np.float32)  # optical depth of all streaks so far
        for d in range(1, self.layers + 1):
            streaks = Streaks(density * d, length / d, max(width / d, 0.4), angle, spread)
            depth += streaks.draw(clean.shape[:2], rng) * -np.log1p(-opacity)
        # screen blend of every streak at once: 1 - (1 - clean) * prod(1 - opacity_k), the product being exp(-depth)
        return quantise(1 - (1 - clean) * np.exp(-depth)[..., None])


@dataclass(frozen=True)
class Streaks:
    """One depth layer of `Rain`: streaks per 1000 px², length and width in px, angle and its spread in degrees."""

    density: float
    length: float
    width: float
    angle: float
    spread: float

    def draw(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """``[H W]`` float32, about 1 along the axis of a lone streak and 0 far from all of them."""
        margin = int(np.ceil(self.length / 2 + 3 * self.width))  # streaks centred outside reach in: no thin border
        height, width = shape[0] + 2 * margin, shape[1] + 2 * margin
        count = rng.poisson(self.density * height * width / 1000)
        centre = rng.random((count, 1, 2)) * (height, width)
        angle = np.radians(self.angle + self.spread * rng.standard_normal((count, 1)))
        bright = rng.uniform(0.5, 1.0, (count, 1))
        steps = np.arange(-(self.length // 2), self.length // 2 + 1)
        along = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * steps[None, :, None]
        fade = np.cos(np.pi * steps / (self.length + 2)) * bright  # a drop enters and leaves the exposure gradually
        splat = _splat(centre + along, fade, (height, width))
        blurred = scipy.ndimage.gaussian_filter(splat, self.width, truncate=3.0, mode="constant")
        # a line of unit density blurs to a ridge 1 / (sqrt(2 pi) width) high: scale it back to 1
        return blurred[margin:-margin, margin:-margin] * np.float32(np.sqrt(2 * np.pi) * self.width)


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


@dataclass(frozen=True)
class LowLight:
    """An under-exposed photo: less light, drifted white balance, and the noise of few photons, in linear light.

    The photo is unprocessed to linear light (Brooks et al. 2019), exposed anew, counted by a sensor (shot and read
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
        bounds = {"exposure": (-12, 0), "gamma": (0.2, 5), "white_balance": (0.2, 5), "shot": (0, 1), "read": (0, 1)}
        for name, (low, high) in bounds.items():
            checked_range(self, name, low, high)

    def __call__(self, clean: Image, rng: np.random.Generator) -> Image:
        exposure, gamma, shot, read = (rng.uniform(*r) for r in (self.exposure, self.gamma, self.shot, self.read))
        balance = np.array([rng.uniform(*self.white_balance), 1, rng.uniform(*self.white_balance)], dtype=np.float32)
        light = np.clip(srgb_to_linear(clean) * (np.float32(2**exposure) * balance), 0, 1)
        dark = linear_to_srgb(np.clip(camera_noise(light, shot, read, rng), 0, 1))
        return quantise(dark**gamma)
