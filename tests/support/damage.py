"""Damaged image files and decompression bombs."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.material import rained, scene

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
ENDINGS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "GIF": "gif", "AVIF": "avif"}


def mutated(content: bytes, kind: int, rng: np.random.Generator) -> bytes:
    """The bytes with flipped bits, truncated, zeroed, with insertions, or with noise in the header."""
    data = bytearray(content)
    at = int(rng.integers(len(data)))
    if kind == 0:
        for place in rng.integers(0, len(data), 8):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at : at + 64] = bytes(min(64, len(data) - at))
    elif kind == 3:
        data[at:at] = rng.bytes(int(rng.integers(1, 32)))
    else:
        data[:64] = bytes(int(rng.integers(256)) if rng.random() < 0.1 else byte for byte in data[:64])
    return bytes(data)


def mutated_folder(root: Path, count: int) -> Path:
    """`count` pairs with a damaged input and a good target."""
    from ip2p_lightning.rng import numpy_rng

    (root / "input").mkdir(parents=True)
    (root / "target").mkdir()
    for i in range(count):
        clean, kind = scene("mutated", i, size=(48, 48)), FORMATS[i % len(FORMATS)]
        Image.fromarray(clean).save(root / "target" / f"m{i:04d}.png", compress_level=1)
        out = io.BytesIO()
        Image.fromarray(rained(clean, i)).save(out, kind, **({"speed": 10} if kind == "AVIF" else {}))
        damaged = mutated(out.getvalue(), i // len(FORMATS) % 5, numpy_rng("mutation", i))
        (root / "input" / f"m{i:04d}.{ENDINGS[kind]}").write_bytes(damaged)
    return root


def bombs(folder: Path) -> int:
    """Add small files that unpack to enormous images to a folder of pairs; returns how many."""
    made = {
        "mp95": _png_header(10_000, 9_500),
        "mp179": _png_header(13_400, 13_400),
        "mp400": _png_header(20_000, 20_000),
        "side60000": _png_header(60_000, 60_000),
        "strip": _png_header(1, 65_500),
        "ztxt": _ztxt(),
        "frames": _frames(10_000),
    }
    for name, content in made.items():
        (folder / "input" / f"{name}.{'gif' if name == 'frames' else 'png'}").write_bytes(content)
        Image.fromarray(scene(name)).save(folder / "target" / f"{name}.png")
    return len(made)


def _png_header(width: int, height: int) -> bytes:
    """A whole black PNG of this size, in a few hundred kilobytes."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(height // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _ztxt() -> bytes:
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    out = io.BytesIO()
    Image.fromarray(scene("ztxt")).save(out, "PNG")
    plain = out.getvalue()
    return plain[:33] + _chunk(b"zTXt", b"Comment\0\0" + text) + plain[33:]


def _frames(count: int) -> bytes:
    out = io.BytesIO()
    first, second = (Image.fromarray(scene("frame", i, size=(32, 32))).convert("P") for i in (0, 1))
    first.save(out, "GIF", save_all=True, append_images=[second])
    content = out.getvalue()
    start = content.rindex(b"\x21\xf9")  # the second frame, to be repeated
    return content[:start] + content[start:-1] * (count - 1) + b";"


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
