"""Whether the two images of a pair lie on one another."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image as PilImage
from scipy.fft import irfft2, rfft2  # unlike NumPy's, in float32

WINDOW = 256  # pixels around the centre that are looked at
REACH = 0.25  # largest displacement looked for, of the window's side
LEAST = 0.15  # correlation of edges below which nothing is known
MARGIN = 0.08  # by how much the displaced correlation must beat the one in place
CLEAR = 0.3  # of the peak in place: while every other response is below that, there is no need to look closer


def displacement(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:  # [H W 3] uint8
    """Rows and columns by which `b` is moved against `a`; (0, 0) where there is no clear evidence of a movement.

    Phase correlation (Kuglin & Hines 1975) proposes a displacement; it counts only if the images agree clearly better
    under it than in place, by the correlation coefficient. Rain, noise and cartoon lines are no displacement.
    """
    parts = [_middle(image) for image in (a, b)]
    if min(parts[0].shape[:2]) < 16 or _clearly_in_place(*parts):
        return 0, 0
    first, second = (_grey(part) for part in parts)
    if _energy(first) < first.size or _energy(second) < second.size:  # deviation below 1
        return 0, 0
    response = _response(first, second)
    rows, columns = np.unravel_index(int(response.argmax()), response.shape)
    dy, dx = (int(s - n if s > n // 2 else s) for s, n in zip((rows, columns), first.shape, strict=True))
    if (dy, dx) == (0, 0) or abs(dy) > REACH * first.shape[0] or abs(dx) > REACH * first.shape[1]:
        return 0, 0
    there, here = _agreement(first, second, dy, dx), _agreement(first, second, 0, 0)
    return (dy, dx) if there > max(here + MARGIN, LEAST) else (0, 0)


def _clearly_in_place(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a look at half the size, for a fifth of the time, settles it: one peak, and that in place.

    A movement by one pixel is half a pixel there: it makes two peaks of one height.
    """
    response = _response(_halved(a), _halved(b)).ravel()
    return bool(response[0] > 0 and response[1:].max() < CLEAR * response[0])


def _middle(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    top, left = max(0, (height - WINDOW) // 2), max(0, (width - WINDOW) // 2)
    return image[top : top + WINDOW, left : left + WINDOW]


def _grey(image: np.ndarray) -> np.ndarray:
    """Its grey values less their mean, float32."""
    grey = np.asarray(PilImage.fromarray(np.ascontiguousarray(image)).convert("L")).astype(np.float32)
    return grey - grey.mean()


def _halved(image: np.ndarray) -> np.ndarray:
    """Its green values at half the size, less their mean: as good as grey for a look, and quicker."""
    height, width = (n // 2 * 2 for n in image.shape[:2])
    green = np.ascontiguousarray(image[:height, :width, 1])
    rows = np.add(green[0::2], green[1::2], dtype=np.uint16)
    half = np.add(rows[:, 0::2], rows[:, 1::2], dtype=np.uint16).astype(np.float32)
    return half - half.mean()


def _response(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How much speaks for each displacement of `second`: a peak at ``[rows columns]``, negative ones from the end."""
    window = _window(*first.shape)
    spectrum = np.conj(rfft2(first * window)) * rfft2(second * window)
    spectrum /= np.sqrt(spectrum.real**2 + spectrum.imag**2 + np.float32(1e-18))  # half the time of np.abs
    return irfft2(spectrum, first.shape, overwrite_x=True)


def _energy(centred: np.ndarray) -> float:
    return float(np.vdot(centred, centred))


@lru_cache(maxsize=16)
def _window(height: int, width: int) -> np.ndarray:
    return np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)


def _agreement(a: np.ndarray, b: np.ndarray, dy: int, dx: int) -> float:
    """Correlation of the part that both show, with `b` moved back; of their edges, which know where they are."""
    height, width = a.shape
    mine = a[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    other = b[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)]
    scores = []
    for axis in (0, 1):
        p, q = (np.diff(image, axis=axis) for image in (mine, other))
        scores.append(float((p * q).sum() / (np.linalg.norm(p) * np.linalg.norm(q) + 1e-9)))
    return sum(scores) / 2
