"""An append-only log of fixed-size records with checksums: the index of a cache.

Damaged records, as a kill while writing leaves them, are skipped. Lookups need 16 bytes of memory per record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ip2p_lightning.system.files import storage_errors
from ip2p_lightning.system.locks import wait_for_lock

KEY = 32  # bytes: a sha256
_CHECK = 8
_TAIL = 4096  # records kept in a dict before they are sorted into the arrays


class RecordLog:
    """Maps a key (32 bytes) to a value (`value_size` bytes) and a row number; the last record of a key counts.

    The file at `path` need not exist; `value_size` is a multiple of 8. Any number of processes may read while others
    append.
    """

    def __init__(self, path: Path, value_size: int) -> None:
        if value_size % 8:
            raise ValueError(f"value_size={value_size} is no multiple of 8")
        self.path, self.value_size = Path(path), value_size
        self.width = KEY + value_size + _CHECK
        self._reset()

    def _reset(self) -> None:
        self._file: int | None = None
        self._rows = 0  # records read so far
        self._tail: dict[bytes, tuple[int, bytes]] = {}
        self._heads = np.empty(0, np.uint64)  # first 8 bytes of each key, sorted; rows in the same order
        self._places = np.empty(0, np.int64)
        self.damaged = 0

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens and reads the file itself."""
        return {"path": self.path, "value_size": self.value_size, "width": self.width}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        """Valid records read so far."""
        return len(self._heads) + len(self._tail)

    def find(self, key: bytes) -> tuple[int, bytes] | None:
        """(row, value) of a key, or None; reads what others have appended only if the key is not known yet."""
        return self._known(key) or (self._known(key) if self.refresh() else None)

    def _known(self, key: bytes) -> tuple[int, bytes] | None:
        found = self._tail.get(key)
        if found is not None or not len(self._heads):
            return found
        head = np.frombuffer(key[:8], np.uint64)[0]
        place = int(np.searchsorted(self._heads, head, side="right")) - 1
        while place >= 0 and self._heads[place] == head:  # the last of equal keys comes first; 64 bits rarely collide
            row = int(self._places[place])
            record = os.pread(self._open(), self.width, row * self.width)
            if record[:KEY] == key and _valid(np.frombuffer(record, np.uint8)[None])[0]:
                return row, record[KEY:-_CHECK]
            place -= 1
        return None

    def keys(self) -> set[bytes]:
        """The keys of all valid records."""
        raw = self.path.read_bytes() if self.path.exists() else b""
        records = np.frombuffer(raw[: len(raw) // self.width * self.width], np.uint8).reshape(-1, self.width)
        return {record[:KEY].tobytes() for record in records[_valid(records)]}

    def refresh(self) -> bool:
        """Read what was appended since the last call; True if there was anything."""
        if not self.path.exists():
            return False
        size = os.fstat(self._open()).st_size // self.width
        if size <= self._rows:
            return False
        raw = os.pread(self._open(), (size - self._rows) * self.width, self._rows * self.width)
        records = np.frombuffer(raw, np.uint8).reshape(-1, self.width)
        valid = _valid(records)
        self.damaged += int((~valid).sum())
        if len(records) > _TAIL:
            self._move_tail(0)  # older records must not hide newer ones
            self._sort_in(records[valid], np.flatnonzero(valid) + self._rows)
        else:
            for row in np.flatnonzero(valid):
                record = records[row].tobytes()
                self._tail[record[:KEY]] = (self._rows + int(row), record[KEY:-_CHECK])
        self._rows = size
        self._move_tail()
        return True

    def _move_tail(self, most: int = _TAIL) -> None:
        """Move a tail of more than `most` records into the sorted arrays."""
        if len(self._tail) > most:
            keys = np.frombuffer(b"".join(self._tail), np.uint8).reshape(-1, KEY)
            rows = np.array([row for row, _ in self._tail.values()])
            self._tail = {}
            self._sort_in(keys, rows)

    def _sort_in(self, records: np.ndarray, rows: np.ndarray) -> None:
        heads = np.ascontiguousarray(records[:, :8]).view(np.uint64)[:, 0]
        heads, rows = np.concatenate([self._heads, heads]), np.concatenate([self._places, rows])
        order = np.lexsort((rows, heads))
        self._heads, self._places = heads[order], rows[order]

    @contextmanager
    def appending(self) -> Iterator[int]:
        """Lock the log for writing; yields the row of the next record."""
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                wait_for_lock(file)
                rows, torn = divmod(os.fstat(file).st_size, self.width)
                if torn:  # a writer was killed here
                    os.ftruncate(file, rows * self.width)
                self._writing = file
                yield rows
            finally:
                os.close(file)

    def append(self, row: int, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Write (key, value) pairs from `row` on; call it inside `appending`."""
        raw = np.zeros((len(records), self.width), np.uint8)
        for line, (key, value) in zip(raw, records, strict=True):
            line[:-_CHECK] = np.frombuffer(key + value, np.uint8)
        raw[:, -_CHECK:] = _checksum(raw).view(np.uint8).reshape(-1, _CHECK)
        os.pwrite(self._writing, raw.tobytes(), row * self.width)

    def _open(self) -> int:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        return self._file


def _checksum(records: np.ndarray) -> np.ndarray:  # [N width] uint8 -> [N] uint64
    """Odd multiples of the words, summed modulo 2^64: any single changed word changes it. All records at once."""
    words = np.ascontiguousarray(records[:, :-_CHECK]).view(np.uint64)
    factors = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (words * (factors | np.uint64(1))).sum(1, dtype=np.uint64) ^ np.uint64(0x1B2B7AC4E)  # all zeros is no record


def _valid(records: np.ndarray) -> np.ndarray:  # [N width] uint8 -> [N] bool
    return _checksum(records) == np.ascontiguousarray(records[:, -_CHECK:]).view(np.uint64)[:, 0]
