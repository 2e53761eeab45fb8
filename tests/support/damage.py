"""Damaged image files and decompression bombs."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ip2p_lightning.rng import numpy_rng
from tests.support.material import rained, scene
from tests.support.zoo import encoded

FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "GIF": "gif", "AVIF": "avif"}


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
    (root / "input").mkdir(parents=True)
    (root / "target").mkdir()
    for i in range(count):
        clean, kind = scene("mutated", i, size=(48, 48)), list(FORMATS)[i % len(FORMATS)]
        Image.fromarray(clean).save(root / "target" / f"m{i:04d}.png", compress_level=1)
        content = encoded(rained(clean, i), kind, **({"speed": 10} if kind == "AVIF" else {}))
        damaged = mutated(content, i // len(FORMATS) % 5, numpy_rng("mutation", i))
        (root / "input" / f"m{i:04d}.{FORMATS[kind]}").write_bytes(damaged)
    return root


def bombs(folder: Path) -> int:
    """Add small files that unpack to enormous images to a folder of pairs; returns how many."""
    made = {
        "mp95": _png_header(10_000, 9_500),
        "mp179": _png_header(13_400, 13_400),
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
    body = _packed_zeros(height * (1 + (width + 7) // 8))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _packed_zeros(size: int) -> bytes:
    """The zlib stream of so many zeros, without compressing them all: one block again and again."""
    packer = zlib.compressobj(9)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(size % (1 << 20))) + packer.flush(zlib.Z_FULL_FLUSH)
    return block[:2] + block[2:] * (size >> 20) + rest + b"\3\0" + struct.pack(">I", size % 65521 << 16 | 1)


def _ztxt() -> bytes:
    plain = encoded(scene("ztxt"), "PNG")
    return plain[:33] + _chunk(b"zTXt", b"Comment\0\0" + _packed_zeros(1 << 30)) + plain[33:]


def _frames(count: int) -> bytes:
    first, second = (Image.fromarray(scene("frame", i, size=(32, 32))).convert("P") for i in (0, 1))
    content = encoded(first, "GIF", save_all=True, append_images=[second])
    start = content.rindex(b"\x21\xf9")  # the second frame, to be repeated
    return content[:start] + content[start:-1] * (count - 1) + b";"


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
