"""What a split consists of, as hashes: a run that is continued must see the data it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from ip2p_lightning.data.pairs.splits import fingerprint
from ip2p_lightning.errors import DataError
from ip2p_lightning.storage import sha256_of

WHOLE = 1 << 30
"""Bytes of a split up to which its files are hashed whole; beyond, each file's size and first 64 KiB."""


def file_hashes(files: Mapping[str, str | Path]) -> dict[str, str]:
    """Name to hash of each file. Raises `DataError` naming a file that cannot be read."""
    paths = {name: Path(path) for name, path in files.items()}
    try:
        versions = {path: path.stat() for path in set(paths.values())}
        whole = sum(status.st_size for status in versions.values()) <= WHOLE
        known = {p: _hash(p, s.st_mtime_ns, s.st_size, whole) for p, s in versions.items()}
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    return {name: known[path] for name, path in paths.items()}


@lru_cache(maxsize=1 << 16)  # tasks of a mixture share their photos
def _hash(path: Path, time: int, size: int, whole: bool) -> str:
    return (sha256_of(path) if whole else fingerprint(path))[:16]


def text_hash(*texts: object) -> str:
    """Hash of some texts."""
    return hashlib.sha256("\0".join(map(str, texts)).encode()).hexdigest()[:16]
