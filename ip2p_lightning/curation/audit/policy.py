"""The checks that a file and a pair must pass."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image as PilImage

from ip2p_lightning.data.image import Decoded, Limits, decode_image
from ip2p_lightning.errors import DataError, UserError

_STRIP = 1 << 16


@dataclass(frozen=True)
class Audit:
    """The policy of a build; raises `UserError` on a value outside these.

    pixels: most pixels of an image; header values are checked before anything is decoded.
    side: its longest side.
    shortest: its shortest side.
    aspect: longest / shortest side.
    bytes: largest file.
    seconds: longest time to decode one file; 0 for no limit.
    identical: what to do with a pair whose two images are the same, pixel by pixel.
    shift: what to do with a pair whose two images are displaced against each other by whole pixels; `note` records it.
    lookalikes: whether nearly equal photos (another compression, size, or mirrored) count as one source image.
    """

    pixels: int = 40_000_000
    side: int = 16_384
    shortest: int = 8
    aspect: float = 20.0
    bytes: int = 128 << 20
    seconds: float = 10.0
    identical: Literal["refuse", "keep"] = "refuse"
    shift: Literal["refuse", "note", "off"] = "refuse"
    lookalikes: bool = True

    def __post_init__(self) -> None:
        for name in ("pixels", "side", "shortest", "aspect", "bytes"):
            if not getattr(self, name) >= 1:
                raise UserError(f"audit.{name}={getattr(self, name)}: give a number, 1 or more")
        if not self.seconds >= 0:
            raise UserError(f"audit.seconds={self.seconds}: give seconds, 0 or more")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this thread after `seconds`; only the main thread of a process can be interrupted so."""
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s to decode")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def decoded(content: bytes, audit: Audit) -> Decoded:
    """A file's image, within the policy's limits. Raises DataError: why not, without the file's name."""
    try:
        with time_limit(audit.seconds):
            limits = Limits(audit.pixels, audit.side, audit.shortest, audit.aspect)
            return decode_image(content, limits=limits, name="-")
    except (DataError, TimeoutError) as error:
        raise DataError(str(error).removeprefix("-: ")) from None


def png(pixels: np.ndarray) -> bytes:  # [H W 3] uint8
    """A PNG file of an image; the same bytes for the same pixels."""
    out = io.BytesIO()
    PilImage.fromarray(pixels).save(out, "PNG", compress_level=4)  # 6, the default, is half as fast and 2 % smaller
    return out.getvalue()


def psnr(a: np.ndarray, b: np.ndarray) -> float:  # [H W 3] uint8
    """Peak signal-to-noise ratio in dB over all channels; infinite for identical images."""
    total = 0.0
    for start in range(0, a.size, _STRIP):  # a float copy of a large photo would take 24 bytes a pixel
        difference = np.subtract(*(x.reshape(-1)[start : start + _STRIP] for x in (a, b)), dtype=np.float64)
        total += float(np.einsum("i,i", difference, difference))
    return float("inf") if total == 0 else float(10 * np.log10(255**2 * a.size / total))
