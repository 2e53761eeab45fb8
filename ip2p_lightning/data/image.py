"""Files and bytes to pixels: what is decoded, how each colour mode is read, and what is refused.

Images stay uint8 until a crop is cut (`view.View` makes float32 of the crop only): a quarter of the memory, and a photo
of 12 megapixels costs nothing to convert. Colour profiles are not applied: values are taken as sRGB.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PilImage
from PIL import ImageOps

from ip2p_lightning.errors import DataError

Image = np.ndarray
"""``[H W 3]`` float32 in [0, 1], sRGB, everywhere in data/ after the crop; uint8 in 0..255 before it."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Decoders that are allowed to see a file; all others (EPS, PSD, ...) are never tried."""

_READ = "png apng jpg jpeg jpe jfif jfi jif pjpeg pjp mpo webp bmp tif tiff gif avif"
SUFFIXES = frozenset(f".{kind}" for kind in _READ.split())
"""Lower-case file name endings of images that are read."""

_OTHER = """heic heif hif avifs avci jxl jp2 j2k jpx jpf jpm jpc j2c jxr wdp bpg flif svg svgz eps ai psd psb xcf
    ppm pgm pbm pnm pam pfm tga dib dds pcx exr hdr qoi ico icns cur sgi ras xbm xpm
    raw dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf pef srw x3f 3fr iiq kdc dcr mrw rwl"""
UNREAD = frozenset(f".{kind}" for kind in _OTHER.split())
"""Endings of images that are not read, and are named rather than left out."""


@dataclass(frozen=True)
class Limits:
    """What an image may claim to be before it is decoded.

    pixels: most pixels in all (Pillow's own bomb limit by default).
    side: longest side in pixels.
    shortest: shortest side in pixels; the autoencoder's unit is 8.
    aspect: longest side / shortest side.
    """

    pixels: int = 89_478_485
    side: int = 32_768
    shortest: int = 8
    aspect: float = 20.0

    def refusal(self, width: int, height: int) -> str | None:
        """Why an image of this size is refused, or None."""
        size = f"{width} x {height} pixels"
        if width * height > self.pixels:
            return f"{size} is more than {self.pixels / 1e6:.1f} megapixels"
        if max(width, height) > self.side:
            return f"{size} is longer than {self.side}"
        if min(width, height) < self.shortest:
            return f"{size} is smaller than {self.shortest} on one side"
        if max(width, height) > self.aspect * min(width, height):
            return f"{size} is a strip: more than {self.aspect:g} times as long as wide"
        return None


class Decoded(NamedTuple):
    """An image, and whether its file may stand for it elsewhere."""

    pixels: np.ndarray
    """``[H W 3]`` uint8, sRGB."""
    portable: bool
    """Whether every reader shows the file so. Not so for transparency (readers differ in the colour below it), 16-bit
    grey (saturated by most), turned images (many readers do not turn them) and AVIF (many do not read it)."""


def open_image(source: str | os.PathLike[str] | bytes, *, limits: Limits = Limits(), name: str = "") -> np.ndarray:
    """The pixels of `decode_image`, ``[H W 3]`` uint8."""
    return decode_image(source, limits=limits, name=name).pixels


def decode_image(source: str | os.PathLike[str] | bytes, *, limits: Limits = Limits(), name: str = "") -> Decoded:
    """Decode one still image, upright (EXIF orientation applied), as ``[H W 3]`` uint8 sRGB.

    Colour modes: RGB as it is; grey (8-bit, 16-bit scaled by 1/257, 1-bit) repeated to three channels; palettes looked
    up; any transparency flattened on white; CMYK and YCbCr by Pillow's formula, without a profile. Refused: float and
    32-bit integer grey, Lab and HSV, CMYK JPEGs that do not say whether they are inverted, animations and multi-page
    files (a phone's MPO is read as its main picture). Raises DataError with name and reason, whatever the decoder does.

    source: a path, or the file's bytes.
    limits: checked against the header, before any pixel is decoded.
    name: what to call it in an error; needed for bytes.
    """
    name = name or ("image bytes" if isinstance(source, bytes) else str(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bombs and odd metadata: refused below or harmless
            return _decode(_opened(source), limits)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except MemoryError:
        raise DataError(f"{name}: not enough memory to decode it") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, PilImage.UnidentifiedImageError):
            reason = f"not an image of a known kind ({', '.join(FORMATS)})"
        raise DataError(f"{name}: {reason}") from None


def with_alpha(pixels: np.ndarray, source: str | os.PathLike[str]) -> np.ndarray:
    """`pixels` [H W 3] of an edit with the transparency of its photo, if that has any: [H W 4] uint8.

    The edit was made of the photo on white; its colours are those that give it again on white.
    """
    try:
        with warnings.catch_warnings(), PilImage.open(_opened(source), formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            if not image.has_transparency_data:
                return pixels
            alpha = _alpha(_upright(image))
    except OSError as error:  # the photo has gone away meanwhile
        raise DataError(f"{source}: {error.strerror or error}") from None
    white = 255 - pixels.astype(np.float32)
    shown = alpha[:, :, None] / np.float32(255)
    colours = (255 - white / np.where(shown > 0, shown, 1)).round().clip(0, 255).astype(np.uint8)
    return np.dstack([colours, alpha])


def _alpha(image: PilImage.Image) -> np.ndarray:  # -> [H W] uint8
    if image.mode.startswith("I;16"):  # one value declared transparent, which Pillow cannot convert
        return np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8)
    return np.asarray(image.convert("RGBA"))[:, :, 3]


def _opened(source: str | os.PathLike[str] | bytes) -> io.BytesIO | Path:
    if isinstance(source, bytes):
        if not source:
            raise DataError("no bytes")
        return io.BytesIO(source)
    path = Path(source)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # a FIFO would block
        raise DataError("is a folder" if stat.S_ISDIR(mode) else "not a regular file")
    return path


def _decode(file: io.BytesIO | Path, limits: Limits) -> Decoded:
    with PilImage.open(file, formats=FORMATS) as image:
        refused = limits.refusal(*image.size)
        if refused:
            raise DataError(refused)
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise DataError(f"{image.format} with several frames; give one file per frame")
        read = _READERS.get(image.mode)
        if read is None:
            raise DataError(f"colour mode {image.mode} is not supported; convert it to 8-bit RGB")
        if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
            raise DataError("CMYK with no Adobe marker, so that its inks may be inverted; convert it to RGB")
        turned = _is_turned(image)  # before load(): a TIFF is turned, and says no more, there
        upright = _upright(image)
        usual = image.format not in ("MPO", "AVIF") and image.mode in _PORTABLE
        portable = not turned and usual and not image.has_transparency_data
        return Decoded(np.ascontiguousarray(read(upright)), portable)


def _is_turned(image: PilImage.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) != 1


def _upright(image: PilImage.Image) -> PilImage.Image:
    """The loaded image, turned as it asks for."""
    turned = _is_turned(image)
    deep = "16" in str(getattr(image, "tile", ""))  # 16 bits a channel, of which Pillow reads the high bytes
    if image.mode == "RGB" and deep and "transparency" in image.info:
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    image.load()
    return ImageOps.exif_transpose(image) if turned else image


def _plain(image: PilImage.Image) -> np.ndarray:
    if image.has_transparency_data:  # an alpha channel, or one colour declared transparent
        image = image.convert("RGBA")
        white = PilImage.new("RGBA", image.size, (255, 255, 255, 255))
        image = PilImage.alpha_composite(white, image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _grey16(image: PilImage.Image) -> np.ndarray:
    grey = np.asarray(image).astype(np.uint32)
    if "transparency" in image.info:  # one value declared transparent: white
        grey = np.where(grey == image.info["transparency"], 65535, grey)
    grey8 = ((grey + 128) // 257).astype(np.uint8)  # 65535 -> 255; Pillow's convert("L") would saturate at 255
    return np.repeat(grey8[:, :, None], 3, axis=2)


_ORIENTATION = 274  # the EXIF tag
_PORTABLE = ("RGB", "L", "P", "1", "CMYK", "YCbCr")
_READERS: dict[str, Callable[[PilImage.Image], np.ndarray]] = {
    **dict.fromkeys(("RGB", "L", "P", "1", "LA", "RGBA", "PA", "CMYK", "YCbCr"), _plain),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), _grey16),
}
