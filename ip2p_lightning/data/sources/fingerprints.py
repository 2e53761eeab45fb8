"""What a split consists of, as hashes: a run that is continued must see the data it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ip2p_lightning.data.sources.splits import fingerprint
from ip2p_lightning.errors import DataError
from ip2p_lightning.system.file_digests import Digests

WHOLE = 1 << 30  # bytes of a split up to which its files are hashed whole; beyond, each file's size and first 64 KiB
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


def text_hash(*texts: object) -> str:
    """Hash of some texts."""
    return hashlib.sha256("\0".join(map(str, texts)).encode()).hexdigest()[:16]
