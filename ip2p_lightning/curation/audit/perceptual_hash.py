"""Find copies of a photo under another compression, at another size, or mirrored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image as PilImage
from scipy.fft import dctn

THUMB = 16  # side of the thumbnail
BITS = 10  # of 63 that may differ between two views of one photo
LEVELS = 4.0  # mean difference of their thumbnails, of 255
FLAT = 4.0  # standard deviation of a thumbnail below which there is nothing to compare
_BLOCK = 1 << 22  # pairs compared at a time


class PerceptualHash(NamedTuple):
    """Perceptual hash and thumbnail of a photo."""

    bits: int
    """Perceptual hash (signs of the low frequencies against their median: Zauner 2010) of the grey image."""
    mirrored: int
    """That of its mirror image."""
    thumb: bytes
    """``[16 16 3]`` uint8; empty for a flat image, which resembles every other flat one."""


def perceptual_hash(pixels: np.ndarray) -> PerceptualHash:  # [H W 3] uint8
    """16 bytes of hash and 768 of thumbnail."""
    small = PilImage.fromarray(pixels).resize((32, 32), PilImage.Resampling.BOX, reducing_gap=2.0)
    grey = np.asarray(small.convert("L"), dtype=np.float32)
    if grey.std() < FLAT:
        return PerceptualHash(0, 0, b"")
    low = dctn(grey, norm="ortho")[:8, :8]
    mirror = low * np.where(np.arange(8) % 2, -1, 1)  # the cosine basis is even or odd under reflection
    return PerceptualHash(_packed(low), _packed(mirror), small.reduce(32 // THUMB).tobytes())


def _packed(low: np.ndarray) -> int:
    coefficients = low.ravel()[1:]  # without the mean
    bits = np.packbits(coefficients > np.sort(coefficients)[31])  # the median of 63, in a tenth of np.median's time
    return int.from_bytes(bits.tobytes(), "big")


def find_lookalikes(hashes: list[PerceptualHash]) -> Iterator[tuple[int, int]]:
    """Pairs of indices ``i < j`` of photos that look the same, each once or more.

    Candidate pairs come from a banded Hamming search on the hashes: two that agree in one of eight bytes are compared
    (this finds all pairs with up to 7 differing bits, and most with 10). The mean absolute difference of the thumbnails
    verifies them. Crops and colour changes are not found.
    """
    kept = np.array([i for i, s in enumerate(hashes) if s.thumb], dtype=np.int64)
    if len(kept) < 2:
        return
    bits = np.array([[hashes[i].bits for i in kept], [hashes[i].mirrored for i in kept]], dtype=np.uint64)
    thumbs = np.frombuffer(b"".join(hashes[i].thumb for i in kept), np.uint8).reshape(-1, THUMB, THUMB, 3)
    for mirrored in (0, 1):
        for a, b in _proposed(bits[0], bits[mirrored]):
            for i, j in _confirmed(a, b, thumbs, bool(mirrored)):
                yield min(kept[i], kept[j]).item(), max(kept[i], kept[j]).item()


def _proposed(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices into both with at most BITS different bits, a block at a time."""
    for byte in range(8):
        shift = np.uint64(8 * byte)
        keys = [((x >> shift) & np.uint64(255)).astype(np.int64) for x in (first, second)]
        orders = [np.argsort(key, kind="stable") for key in keys]
        edges = [np.searchsorted(key[order], np.arange(257)) for key, order in zip(keys, orders, strict=True)]
        for value in range(256):
            mine, theirs = (o[e[value] : e[value + 1]] for o, e in zip(orders, edges, strict=True))
            step = max(1, _BLOCK // max(1, len(theirs)))
            for start in range(0, len(mine) if len(theirs) else 0, step):
                part = mine[start : start + step]
                near = np.bitwise_count(first[part][:, None] ^ second[theirs][None]) <= BITS
                near &= part[:, None] < theirs[None]  # both orders are in: mirroring is symmetric
                rows, columns = np.nonzero(near)
                if len(rows):
                    yield part[rows], theirs[columns]


def _confirmed(a: np.ndarray, b: np.ndarray, thumbs: np.ndarray, mirrored: bool) -> Iterator[tuple[int, int]]:
    for start in range(0, len(a), 4096):
        i, j = a[start : start + 4096], b[start : start + 4096]
        other = thumbs[j][:, :, ::-1] if mirrored else thumbs[j]
        difference = np.abs(thumbs[i].astype(np.int16) - other).mean(axis=(1, 2, 3))
        for k in np.nonzero(difference <= LEVELS)[0]:
            yield int(i[k]), int(j[k])
