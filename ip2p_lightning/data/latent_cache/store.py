"""One cache: all entries that one autoencoder, geometry and number format give, in numbered slots of a few large files.

Files are read with ``pread`` rather than mapped: speed is the same (the page cache serves both) and mapped pages would
count as the process's memory, which would then grow with the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import DamagedError
from ip2p_lightning.system.file_digests import MEMO, Digests
from ip2p_lightning.system.files import read_json, storage_errors, write_json
from ip2p_lightning.system.range_locks import Claims
from ip2p_lightning.system.record_log import RecordLog

SHARD_BYTES = 1 << 28
_DIGEST = 16  # bytes of a payload's sha256 in its index record
DESCRIPTION = "space.json"


class Space:
    """A folder of payloads of one size, by key.

    description: what the payloads depend on, apart from their own keys; its sha256 names the folder.
    payload: bytes of an entry.
    damaged: entries found here whose bytes did not verify; they count as absent.
    """

    def __init__(self, root: Path, description: Mapping[str, Any], payload: int) -> None:
        name = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:24]
        self.folder, self.description, self.payload = Path(root) / name, dict(description), payload
        self.slots = max(1, SHARD_BYTES // payload)
        self.index = RecordLog(self.folder / "index", _DIGEST)
        self.damaged = 0
        self._bad: dict[bytes, int] = {}  # key to the row that did not verify
        self._shards: dict[int, int] = {}

    @classmethod
    def opened(cls, folder: Path) -> Space:
        """The cache that a folder holds. Raises DamagedError: its description has changed."""
        description = read_json(folder / DESCRIPTION)
        payload = description.pop("payload_bytes", 0)
        space = cls(folder.parent, description, payload or 1)
        if space.folder != folder or not payload:
            raise DamagedError(f"{folder / DESCRIPTION} describes another cache")
        return space

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}, "_bad": {}, "damaged": 0}

    def create(self) -> None:
        """Make the folder with its description. Raises StorageError."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / DESCRIPTION).exists():
            write_json(self.folder / DESCRIPTION, self.description | {"payload_bytes": self.payload})

    def __len__(self) -> int:
        """Index records read so far, those of rebuilt entries included."""
        self.index.refresh()
        return len(self.index)

    def get(self, key: bytes) -> bytes | None:
        """The payload of `key` if it is there and verifies."""
        found = self.index.find(key)
        if found is not None and self._bad.get(key) == found[0] and self.index.refresh():
            found = self.index.find(key)  # another process may have rebuilt it
        if found is None or self._bad.get(key) == found[0]:
            return None
        payload = self._read(found[0])
        if hashlib.sha256(payload).digest()[:_DIGEST] == found[1]:
            return payload
        self._bad[key] = found[0]
        self.damaged += 1
        return None

    def _read(self, row: int) -> bytes:
        shard, slot = divmod(row, self.slots)
        try:
            if shard not in self._shards:
                self._shards[shard] = os.open(self._path(shard), os.O_RDONLY)
            return os.pread(self._shards[shard], self.payload, slot * self.payload)
        except OSError:  # a shard that was deleted or lies on a bad sector is a damaged entry, no more
            return b""

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Add (key, payload) pairs, the index last: what a killed writer left is not found. Raises StorageError."""
        with self.index.appending() as row:
            for number, (_, payload) in enumerate(entries):
                self._write(row + number, payload)
            digests = [(key, hashlib.sha256(payload).digest()[:_DIGEST]) for key, payload in entries]
            self.index.append(row, digests)

    def _write(self, row: int, payload: bytes) -> None:
        if len(payload) != self.payload:
            raise ValueError(f"a payload of {len(payload)} bytes in a cache of {self.payload}")
        shard, slot = divmod(row, self.slots)
        file = os.open(self._path(shard), os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            done = 0
            while done < self.payload:  # a nearly full disk takes a part, then refuses
                done += os.pwrite(file, payload[done:], slot * self.payload + done)
        finally:
            os.close(file)

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}"

    def claims(self) -> Claims:
        """A block in which this process may claim keys."""
        return Claims(self.folder / "claims")


def is_cache(folder: Path) -> bool:
    """Whether a folder holds caches, as ``cache_dir`` does."""
    return any(Path(folder).glob(f"*/{DESCRIPTION}"))


def verified(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Each part of a folder of caches, and what is wrong with it."""
    for path in sorted(Path(root).glob(f"*/{DESCRIPTION}")):
        yield path.parent, _space(path.parent)
    log = Digests(Path(root) / MEMO).memo
    if log is not None and log.path.exists():
        log.refresh()
        yield log.path, f"{log.damaged} damaged records" if log.damaged else None


def _space(folder: Path) -> str | None:
    try:
        space = Space.opened(folder)
    except DamagedError as error:
        return str(error)
    keys = space.index.keys()
    bad = sum(space.get(key) is None for key in keys)
    lost = space.index.damaged
    return f"{bad} of {len(keys)} entries and {lost} records of the index are damaged" if bad or lost else None
