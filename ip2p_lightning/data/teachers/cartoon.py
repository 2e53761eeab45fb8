"""The cartoon teacher: an edge-preserving abstraction of a photo with ink lines, computed, not learned.

After Winnemöller et al. 2006 ("Real-time video abstraction"): smooth without crossing edges, flatten regions, quantise
luminance softly, draw lines. Every step is local: away from the border, a crop of the cartoon is the crop's cartoon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import scipy  # its submodules come when they are first used

from ip2p_lightning.data.degradations.base import quantise
from ip2p_lightning.data.image import Image
from ip2p_lightning.errors import UserError

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # Rec. 601 luma of sRGB values


@dataclass(frozen=True)
class Cartoonizer:
    """Photo -> cartoon: ``[H W 3]`` float32 in [0, 1], sRGB, to the same, rounded to 8 bits. Deterministic.

    radius: of the smoothing and flattening windows in pixels, 1 to 16.
    smoothing: the guided filter's epsilon, > 0: contrast (squared, full scale 1) below which texture is smoothed away.
    passes: smoothing and flattening passes, 1 to 8.
    levels: luminance steps of the soft quantisation, 2 to 64.
    crispness: how hard its steps are, >= 0; 0 switches it off, 1 is a soft step, 3 and more nearly a posterisation.
    line_width: standard deviation in pixels of the line detector, within [0.3, 5].
    ink: darkness of the lines within [0, 1]; 0 draws none.
    saturation: gain on the colour difference from grey, within [0, 4]; 1 leaves it.
    Raises `UserError` on a value outside these.
    """

    makes: ClassVar[Literal["edited"]] = "edited"

    radius: int = 2
    smoothing: float = 0.003
    passes: int = 2
    levels: int = 6
    crispness: float = 1.5
    line_width: float = 0.9
    ink: float = 0.8
    saturation: float = 1.2

    def __post_init__(self) -> None:
        bounds = {"radius": (1, 16), "smoothing": (1e-8, 1), "passes": (1, 8), "levels": (2, 64), "crispness": (0, 20)}
        bounds |= {"line_width": (0.3, 5), "ink": (0, 1), "saturation": (0, 4)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"Cartoonizer.{name}: got {getattr(self, name)!r}; give one within [{low:g}, {high:g}]")

    def __call__(self, photo: Image, rng: np.random.Generator | None = None) -> Image:
        """The cartoon of `photo`; `rng` is not used (every teacher is called with one)."""
        smooth = guided_filter(photo.astype(np.float32), self.radius, self.smoothing)
        lines = ink_lines(smooth @ LUMA, self.line_width)  # before the flattening: an eye must not lose its lines
        flat = kuwahara(smooth, self.radius)
        for _ in range(self.passes - 1):
            flat = kuwahara(guided_filter(flat, self.radius, self.smoothing), self.radius)
        luma = flat @ LUMA
        toned = soft_quantise(luma, self.levels, self.crispness)
        colour = toned[..., None] + self.saturation * (flat - luma[..., None])
        cartoon = np.clip(colour, 0, 1) * (1 - self.ink * lines)[..., None]
        return quantise(cartoon)


def guided_filter(image: Image, radius: int, epsilon: float) -> Image:
    """Edge-preserving smoothing of each channel of `image` [H W 3], guided by itself (He et al. 2010, eq. 5, 6, 8)."""
    box = _box(2 * radius + 1)
    mean = box(image)
    variance = box(image * image) - mean * mean
    a = variance / (variance + epsilon)
    return box(a) * image + box(mean - a * mean)


def kuwahara(image: Image, radius: int, sharpness: float = 4.0) -> Image:
    """`image` [H W 3] as the average of its four corner windows' means, the even ones prevailing: flat regions.

    Weights fall with the window's variance (generalised Kuwahara filter, Papari et al. 2007, eq. 8).
    """
    box = _box(radius + 1)
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    mean = box(padded)
    luma = padded @ LUMA
    variance = np.maximum(box(luma * luma) - box(luma) ** 2, 0)
    weight = (variance + 1e-4) ** -sharpness  # the floor is one grey level: equally flat windows weigh the same
    weight /= weight.max()
    height, width = image.shape[:2]
    total, share = np.zeros((1, 1, 1)), np.zeros((1, 1))
    first, last = (radius + 1) // 2, radius + (radius + 1) // 2
    for y in (first, last):
        for x in (first, last):
            window = (slice(y, y + height), slice(x, x + width))
            total = total + weight[window][..., None] * mean[window]
            share = share + weight[window]
    return total / share[..., None]


def soft_quantise(luma: np.ndarray, levels: int, crispness: float) -> np.ndarray:
    """`luma` drawn towards its nearest of `levels` tones (Winnemöller et al. 2006, eq. 5); monotone and continuous."""
    if crispness == 0:
        return luma
    step = 1 / levels
    nearest = (np.floor(luma / step) + 0.5) * step
    # the tanh is scaled to reach the middle between two tones exactly, so there is no jump
    return nearest + step / 2 * np.tanh(crispness * (luma - nearest) / (step / 2)) / np.tanh(crispness)


def ink_lines(luma: np.ndarray, sigma: float, gain: float = 40.0, threshold: float = 0.018) -> np.ndarray:
    """Lines [H W] in [0, 1] on the dark side of edges: XDoG (Winnemöller et al. 2012, eq. 5 and 7).

    Thresholds the difference of Gaussians alone, without XDoG's base tone: a dark region is not one large line.
    """
    blur = scipy.ndimage.gaussian_filter(luma, sigma, truncate=3.0)
    edge = blur - scipy.ndimage.gaussian_filter(luma, 1.6 * sigma, truncate=3.0)  # 1.6: Marr & Hildreth's ratio
    return np.where(edge < -threshold, -np.tanh(gain * (edge + threshold)), 0.0).astype(np.float32)


def _box(size: int):
    """Mean over a `size` x `size` window of every channel."""
    return lambda x: scipy.ndimage.uniform_filter(x, size, mode="reflect", axes=(0, 1))
