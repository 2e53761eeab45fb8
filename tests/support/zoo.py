"""A file of every kind that a folder of images may hold, with the verdict it must get and the picture it shows.

What it shows is computed here from the numbers that went into it, without Pillow's conversions.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageCms

from tests.support.material import scene

KEPT, AS_PNG = "kept", "as PNG"  # accepted: its own bytes are stored, or a PNG; anything else is why it is refused
SIZE = (64, 48)
RGB = np.asarray(Image.fromarray(scene("zoo", size=(8, 6))).resize(SIZE, Image.Resampling.BICUBIC))
GREY, ALPHA = RGB[..., 1], np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
TURNS = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF orientation: the transpose that undoes it


class Animal(NamedTuple):
    """A file."""

    content: bytes
    verdict: str
    shows: np.ndarray | None = None  # [H W 3], None where it is refused


def zoo() -> dict[str, Animal]:
    """All of them by file name."""
    return _grey() | _palettes() | _colours() | _alpha() | _deep() | _cmyk() | _turned() | _moving() | _strangers()


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """A file of an image."""
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def three(grey: np.ndarray) -> np.ndarray:
    """[H W] as [H W 3]."""
    return np.repeat(grey[..., None], 3, axis=2)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """What is seen of a colour [H W 3] above a white page."""
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def _grey() -> dict[str, Animal]:
    bits = np.where(GREY > 127, 255, 0).astype(np.uint8)
    hole = np.where(GREY[0, 0] == GREY, 255, GREY)
    one, grey = Image.fromarray(bits).convert("1"), Image.fromarray(GREY)
    return {
        "one.png": Animal(encoded(one, "PNG"), KEPT, three(bits)),
        "one_g4.tif": Animal(encoded(one, "TIFF", compression="group4"), KEPT, three(bits)),
        "one.bmp": Animal(encoded(one, "BMP"), KEPT, three(bits)),
        "grey.png": Animal(encoded(grey, "PNG"), KEPT, three(GREY)),
        "grey.jpg": Animal(encoded(grey, "JPEG", quality=98), KEPT, three(GREY)),
        "grey.tif": Animal(encoded(grey, "TIFF"), KEPT, three(GREY)),
        "grey_hole.png": Animal(encoded(grey, "PNG", transparency=int(GREY[0, 0])), AS_PNG, three(hole)),
    }


def _palettes() -> dict[str, Animal]:
    index = (GREY // 2).astype(np.uint8)  # 128 colours
    colours = np.stack([np.arange(128) * 2, 255 - np.arange(128), np.arange(128) // 3], 1).astype(np.uint8)
    image, shows = Image.fromarray(index), colours[index]
    image.putpalette(colours.tobytes())
    fading = np.minimum(np.arange(128) * 2, 255).astype(np.uint8)
    faded = on_white(shows, fading[index])
    hole = np.where(three(index == index[0, 0]), 255, shows)
    pa = _palette_alpha(image)
    return {
        "palette.png": Animal(encoded(image, "PNG"), KEPT, shows),
        "palette.bmp": Animal(encoded(image, "BMP"), KEPT, shows),
        "palette.tif": Animal(encoded(image, "TIFF"), KEPT, shows),
        "palette.gif": Animal(encoded(image, "GIF"), KEPT, shows),
        "interlaced.gif": Animal(encoded(image, "GIF", interlace=1), KEPT, shows),
        "palette_hole.png": Animal(encoded(image, "PNG", transparency=int(index[0, 0])), AS_PNG, hole),
        "palette_hole.gif": Animal(encoded(image, "GIF", transparency=int(index[0, 0])), AS_PNG, hole),
        "palette_alpha.png": Animal(encoded(image, "PNG", transparency=fading.tobytes()), AS_PNG, faded),
        "palette_alpha.tif": Animal(encoded(pa, "TIFF"), AS_PNG, on_white(shows, ALPHA)),
    }


def _palette_alpha(image: Image.Image) -> Image.Image:
    both = image.convert("PA")
    both.putalpha(Image.fromarray(ALPHA))
    return both


def _colours() -> dict[str, Animal]:
    base = Image.fromarray(RGB)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    fine = {"quality": 98, "subsampling": 0}
    return {
        "rgb.png": Animal(encoded(base, "PNG"), KEPT, RGB),
        "interlaced.png": Animal(png(RGB, 8, 2, adam7=True), KEPT, RGB),
        "profile.png": Animal(encoded(base, "PNG", icc_profile=profile), KEPT, RGB),
        "rgb_hole.png": Animal(
            encoded(base, "PNG", transparency=tuple(map(int, RGB[0, 0]))),
            AS_PNG,
            np.where((RGB[0, 0] == RGB).all(axis=2, keepdims=True), 255, RGB),
        ),
        "rgb.bmp": Animal(encoded(base, "BMP"), KEPT, RGB),
        "rgb.tif": Animal(encoded(base, "TIFF"), KEPT, RGB),
        "lzw.tif": Animal(encoded(base, "TIFF", compression="tiff_lzw"), KEPT, RGB),
        "pad.tif": Animal(encoded(Image.merge("RGBX", [*base.split(), Image.fromarray(ALPHA)]), "TIFF"), KEPT, RGB),
        "ycbcr.tif": Animal(encoded(base.convert("YCbCr"), "TIFF"), KEPT, RGB),
        "plain.jpg": Animal(encoded(base, "JPEG", **fine), KEPT, RGB),
        "halved.jpg": Animal(encoded(base, "JPEG", quality=98, subsampling=2), KEPT, RGB),
        "progressive.jpg": Animal(encoded(base, "JPEG", progressive=True, **fine), KEPT, RGB),
        "profile.jpg": Animal(encoded(base, "JPEG", icc_profile=profile, **fine), KEPT, RGB),
        "lossless.webp": Animal(encoded(base, "WEBP", lossless=True), KEPT, RGB),
        "lossy.avif": Animal(encoded(base, "AVIF", quality=98, subsampling="4:4:4"), AS_PNG, RGB),
        "lossy.webp": Animal(encoded(base, "WEBP", quality=98), KEPT, RGB),
        "lab.tif": Animal(encoded(Image.merge("LAB", base.split()), "TIFF"), "colour mode LAB"),
    }


def _alpha() -> dict[str, Animal]:
    clear = Image.fromarray(np.dstack([RGB, ALPHA]))
    hidden = np.zeros((48, 64, 4), np.uint8)
    hidden[..., 0] = 255  # red below full transparency on the left half
    hidden[:, 32:] = np.dstack([RGB, np.full_like(ALPHA, 255)])[:, 32:]
    seen = np.where(np.arange(64)[None, :, None] < 32, 255, RGB)
    dark = Image.merge("LA", (Image.fromarray(np.zeros_like(GREY)), Image.fromarray(ALPHA)))
    times = (RGB * (ALPHA[..., None] / 255)).round().astype(np.uint8)
    premultiplied = tiff(np.dstack([times, ALPHA]), photometric="rgb", extrasamples=["assocalpha"])
    return {
        "rgba.png": Animal(encoded(clear, "PNG"), AS_PNG, on_white(RGB, ALPHA)),
        "rgba.webp": Animal(encoded(clear, "WEBP", lossless=True, exact=True), AS_PNG, on_white(RGB, ALPHA)),
        "rgba.tif": Animal(encoded(clear, "TIFF"), AS_PNG, on_white(RGB, ALPHA)),
        "premultiplied.tif": Animal(premultiplied, AS_PNG, on_white(RGB, ALPHA)),
        "rgba.bmp": Animal(bmp32(np.dstack([RGB, ALPHA])), AS_PNG, on_white(RGB, ALPHA)),
        "hidden.png": Animal(encoded(hidden, "PNG"), AS_PNG, seen),
        "grey_alpha.png": Animal(encoded(dark, "PNG"), AS_PNG, on_white(np.zeros_like(RGB), ALPHA)),
        "grey_alpha.tif": Animal(encoded(dark, "TIFF"), AS_PNG, on_white(np.zeros_like(RGB), ALPHA)),
    }


def _deep() -> dict[str, Animal]:
    deep, deep_grey = RGB.astype(np.uint16) * 257, np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    shows = three(deep_grey / 257)
    deep_alpha = ALPHA.astype(np.uint16) * 257
    hole, deep_hole = int(deep_grey[5, 5]), (RGB[0, 0] == RGB).all(axis=2, keepdims=True)
    grey_hole = encoded_hole(png(deep_grey[..., None], 16, 0), hole)
    rgb_hole = encoded_hole(png(deep, 16, 2), *map(int, deep[0, 0]))
    return {
        "grey16.png": Animal(png(deep_grey[..., None], 16, 0), AS_PNG, shows),
        "grey16.tif": Animal(tiff(deep_grey), AS_PNG, shows),
        "grey16_big.tif": Animal(tiff(deep_grey, byteorder=">"), AS_PNG, shows),
        "grey16_hole.png": Animal(grey_hole, AS_PNG, np.where(three(deep_grey == hole), 255, shows)),
        "rgb16_hole.png": Animal(rgb_hole, AS_PNG, np.where(deep_hole, 255, RGB)),
        "rgb16.png": Animal(png(deep, 16, 2), KEPT, RGB),
        "rgb16.tif": Animal(tiff(deep, photometric="rgb"), KEPT, RGB),
        "rgba16.png": Animal(png(np.dstack([deep, deep_alpha]), 16, 6), AS_PNG, on_white(RGB, ALPHA)),
        "grey_alpha16.png": Animal(
            png(np.dstack([deep[..., 1], deep_alpha]), 16, 4), AS_PNG, on_white(three(GREY), ALPHA)
        ),
        "grey32.tif": Animal(tiff(deep_grey.astype(np.int32)), "colour mode I"),
        "signed16.tif": Animal(tiff(deep_grey.astype(np.int16)), "colour mode I"),
        "float.tif": Animal(tiff((GREY / 255).astype(np.float32)), "colour mode F"),
    }


def _cmyk() -> dict[str, Animal]:
    inks = np.dstack([255 - RGB, GREY // 3]).astype(np.uint8)
    shows = (255.0 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    image = Image.frombytes("CMYK", SIZE, inks.tobytes())
    marked = encoded(image, "JPEG", quality=98, subsampling=0)
    unmarked = re.sub(rb"\xff\xee\x00\x0eAdobe.{7}", b"", marked, flags=re.DOTALL)
    return {
        "cmyk.tif": Animal(encoded(image, "TIFF"), KEPT, shows),
        "cmyk.jpg": Animal(marked, KEPT, shows),
        "ycck.jpg": Animal(*_ycck(marked, 255.0 - inks)),
        "cmyk_unmarked.jpg": Animal(unmarked, "no Adobe marker"),
    }


def _ycck(marked: bytes, stored: np.ndarray) -> tuple[bytes, str, np.ndarray]:
    """The same numbers, said to be luma, chroma and black."""
    at = marked.index(b"Adobe") + 11
    y, blue, red, black = np.moveaxis(stored, 2, 0)
    rgb = [y + 1.402 * (red - 128), y - 0.344136 * (blue - 128) - 0.714136 * (red - 128), y + 1.772 * (blue - 128)]
    complement = 255 - np.clip(np.dstack(rgb), 0, 255)  # what libjpeg makes of it, inverted as Adobe stores inks
    return marked[:at] + b"\2" + marked[at + 1 :], KEPT, complement * black[..., None] / 255


def _turned() -> dict[str, Animal]:
    found = {}
    for orientation, undo in TURNS.items():
        exif, base = Image.Exif(), Image.fromarray(RGB)
        exif[274] = orientation
        stored = base if undo is None else base.transpose(Image.Transpose(undo))
        verdict = KEPT if orientation == 1 else AS_PNG
        options = {"exif": exif, "quality": 98, "subsampling": 0}
        found[f"turned{orientation}.jpg"] = Animal(encoded(stored, "JPEG", **options), verdict, RGB)
    sideways = base.transpose(Image.Transpose(TURNS[6]))
    exif[274] = 6
    found["turned6.png"] = Animal(encoded(sideways, "PNG", exif=exif), AS_PNG, RGB)
    found["turned6.webp"] = Animal(encoded(sideways, "WEBP", lossless=True, exif=exif), AS_PNG, RGB)
    found["turned6.tif"] = Animal(encoded(sideways, "TIFF", tiffinfo={274: 6}), AS_PNG, RGB)
    return found


def _moving() -> dict[str, Animal]:
    base = Image.fromarray(RGB)
    two = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}
    kinds = {"moving.gif": "GIF", "moving.webp": "WEBP", "moving.png": "PNG", "pages.tif": "TIFF"}
    still = {name: Animal(encoded(base, kind, **two), "several frames") for name, kind in kinds.items()}
    return still | {"phone.jpg": Animal(encoded(base, "MPO", quality=98, subsampling=0, **two), AS_PNG, RGB)}


def _strangers() -> dict[str, Animal]:
    base, unknown = Image.fromarray(RGB), "not an image of a known kind"
    return {
        "stranger.ppm": Animal(encoded(base, "PPM"), unknown),
        "stranger.tga": Animal(encoded(base, "TGA"), unknown),
        "stranger.jp2": Animal(encoded(base, "JPEG2000"), unknown),
        "psd_named.png": Animal(b"8BPS\0\1" + bytes(40), unknown),
        "page.jpg": Animal(b"<!doctype html><title>404</title>", unknown),
        "empty.png": Animal(b"", "no bytes"),
    }


# ---- files that Pillow does not write ----


def png(values: np.ndarray, depth: int, kind: int, adam7: bool = False) -> bytes:
    """A PNG of [H W C] values of 8 or 16 bits; colour type 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""
    height, width = values.shape[:2]
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    body = b""
    for top, left, down, right in passes if adam7 else [(0, 0, 1, 1)]:
        part = values[top::down, left::right].astype(">u2" if depth == 16 else np.uint8)
        body += b"".join(b"\0" + row.tobytes() for row in part)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(adam7))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def encoded_hole(content: bytes, *values: int) -> bytes:
    """A PNG of 16 bits in which one grey or colour is declared transparent."""
    chunk, at = b"tRNS" + struct.pack(f">{len(values)}H", *values), content.index(b"IDAT") - 4
    return (
        content[:at] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[at:]
    )


def tiff(values: np.ndarray, **options: object) -> bytes:
    """A TIFF of any type of number."""
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def bmp32(rgba: np.ndarray) -> bytes:
    """A bitmap with alpha, as Windows writes it: masks for four channels in a header of 124 bytes."""
    height, width = rgba.shape[:2]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, 0, 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(64)
    body = rgba[::-1, :, [2, 1, 0, 3]].tobytes()
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(body), 0, 0, 14 + len(info)) + info + body
