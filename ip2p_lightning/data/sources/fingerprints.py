"""Hashes of what a split consists of (a run that is continued must see the data it began with), and of photos."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ip2p_lightning.data.image import open_image
from ip2p_lightning.data.sources.image_files import warn_once
from ip2p_lightning.errors import DataError
from ip2p_lightning.system.file_digests import Digests, shared_digests

WHOLE = 1 << 30  # bytes of a split up to which its files are hashed whole; beyond, each file's size and first 64 KiB
PATIENCE = 10.0  # seconds of silence
DECODING = 1  # changes when a file's pixels do, by how it is decoded
FEW_BYTES = 1 << 22  # up to which decoding again is faster than remembering
SMALL = 1 << 26  # bytes up to which hashing again is faster than remembering


def file_hashes(files: Mapping[str, str | Path], digests: Digests) -> dict[str, str]:
    """Name to hash of each file. Raises `DataError` naming a file that cannot be read."""
    paths = {name: Path(path) for name, path in files.items()}
    try:
        each = {path: path.stat().st_size for path in set(paths.values())}
        size = sum(each.values())
        hashes = (digests.of_file(p, keep=size > SMALL).hex() if size <= WHOLE else fingerprint(p) for p in each)
        known = {path: found[:16] for path, found in zip(each, hashes, strict=True)}
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    return {name: known[path] for name, path in paths.items()}


def pixel_hashes(files: Iterable[str | Path]) -> dict[str, str]:
    """Hash of the decoded pixels of each file: copies of a photo agree, whatever they are called and saved as.

    Raises DataError naming a file that is not there; one that cannot be decoded goes by its bytes.
    """
    names = list(dict.fromkeys(map(str, files)))
    try:
        keep = sum(Path(name).stat().st_size for name in names) > FEW_BYTES
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    return dict(zip(names, hashed(map(Path, names), keep), strict=True))


def hashed(sources: Iterable[Path | bytes], keep: bool = False) -> Iterator[str]:
    """`pixel_hash` of each; says so if it takes long."""
    start = time.monotonic()
    for source in sources:
        yield pixel_hash(source, keep)
        if time.monotonic() - start > PATIENCE:
            warn_once("reading every image once, to keep copies of a photo in one split; this takes a while")


def pixel_hash(source: Path | bytes, keep: bool = False) -> str:
    """Hash of the decoded pixels of one file, or of its bytes; remembered for the next process if `keep`."""
    digests = shared_digests()
    content = hashlib.sha256(source).digest() if isinstance(source, bytes) else digests.of_file(source, keep)

    def compute() -> bytes:
        try:
            pixels = open_image(source, name="image")
        except DataError:
            return content
        found = hashlib.sha256(repr(pixels.shape).encode())
        found.update(pixels.data)
        return found.digest()

    return digests.of_named(f"pixels {DECODING} {content.hex()}", compute, keep).hex()


def fingerprint(path: Path) -> str:
    """Hash of a file's size and first 64 KiB."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    return hashlib.sha256(f"{path.stat().st_size}:".encode() + head).hexdigest()


def text_hash(*texts: object) -> str:
    """Hash of some texts."""
    return hashlib.sha256("\0".join(map(str, texts)).encode()).hexdigest()[:16]
