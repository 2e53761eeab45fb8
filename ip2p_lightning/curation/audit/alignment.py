"""Whether the two images of a pair are aligned."""

from __future__ import annotations

import numpy as np
from PIL import Image as PilImage

WINDOW = 256  # pixels around the centre that are compared
REACH = 0.25  # largest displacement, as a fraction of the window's side
LEAST = 0.15  # correlation of edges below which there is no evidence
MARGIN = 0.08  # by how much the displaced correlation must beat the one in place


def displacement(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:  # [H W 3] uint8
    """Rows and columns by which `b` is moved against `a`; (0, 0) where there is no clear evidence of a movement.

    Phase correlation proposes a displacement; it counts only if the correlation of the edges is clearly higher under it
    than in place. Rain, noise and cartoon lines are no displacement.
    """
    from skimage.registration import phase_cross_correlation

    first, second = _grey(a), _grey(b)
    height, width = first.shape
    if min(height, width) < 16 or min(first.std(), second.std()) < 1:
        return 0, 0
    here = _agreement(first, second, 0, 0)
    if here + MARGIN >= 1:  # no displacement can beat it
        return 0, 0
    window = np.outer(*map(np.hanning, first.shape)).astype(np.float32)
    shift, _, _ = phase_cross_correlation(first * window, second * window)
    dy, dx = int(-shift[0]), int(-shift[1])
    if (dy, dx) == (0, 0) or abs(dy) > REACH * height or abs(dx) > REACH * width:
        return 0, 0
    return (dy, dx) if _agreement(first, second, dy, dx) > max(here + MARGIN, LEAST) else (0, 0)


def _grey(image: np.ndarray) -> np.ndarray:
    """Grey values around the centre less their mean, float32."""
    height, width = image.shape[:2]
    top, left = max(0, (height - WINDOW) // 2), max(0, (width - WINDOW) // 2)
    middle = np.ascontiguousarray(image[top : top + WINDOW, left : left + WINDOW])
    grey = np.asarray(PilImage.fromarray(middle).convert("L")).astype(np.float32)
    return grey - grey.mean()


def _agreement(a: np.ndarray, b: np.ndarray, dy: int, dx: int) -> float:
    """Correlation of the edges in the part that both show, with `b` moved back."""
    height, width = a.shape
    mine = a[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    other = b[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)]
    scores = []
    for axis in (0, 1):
        p, q = (np.diff(image, axis=axis) for image in (mine, other))
        scores.append(float((p * q).sum() / (np.linalg.norm(p) * np.linalg.norm(q) + 1e-9)))
    return sum(scores) / 2
