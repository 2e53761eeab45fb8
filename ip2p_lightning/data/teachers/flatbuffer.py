"""As much of the flatbuffer format as reading a TFLite file takes, so that TensorFlow is not needed for it.

Every offset is checked against the file's length: a truncated or hostile file is refused, it cannot read elsewhere.
Format: https://flatbuffers.dev/internals (little-endian; a table begins with the signed distance back to its vtable).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ip2p_lightning.errors import DamagedError


@dataclass(frozen=True)
class Table:
    """A flatbuffer table at byte `at` of `data`. Fields are asked for by their number in the schema."""

    data: memoryview
    at: int

    @classmethod
    def root(cls, data: bytes | memoryview) -> Table:
        """The table that the file's first word points to. Raises DamagedError, as all methods here do."""
        view = memoryview(data)
        return cls(view, _unpack("<I", view, 0))

    def scalar(self, field: int, kind: str, default: int = 0) -> int:
        """An integer field of struct format `kind` (``b`` int8, ``B`` uint8, ``i`` int32, ``I`` uint32, ...)."""
        place = self._place(field)
        return default if place is None else _unpack(f"<{kind}", self.data, place)

    def table(self, field: int) -> Table | None:
        """A table field; None where the file leaves it out."""
        place = self._target(field)
        return None if place is None else Table(self.data, place)

    def tables(self, field: int) -> list[Table]:
        """A vector of tables; empty where the file leaves it out."""
        return [Table(self.data, place + _unpack("<I", self.data, place)) for place in self._items(field, 4)]

    def integers(self, field: int) -> list[int]:
        """A vector of int32."""
        return [_unpack("<i", self.data, place) for place in self._items(field, 4)]

    def bytes(self, field: int, width: int = 1) -> memoryview:
        """A vector of items of `width` bytes, as it lies in the file: without a copy."""
        places = self._items(field, width)
        return self.data[places.start : places.stop]

    def _place(self, field: int) -> int | None:
        vtable = self.at - _unpack("<i", self.data, self.at)
        slot = 4 + 2 * field
        if slot >= _unpack("<H", self.data, vtable):
            return None
        offset = _unpack("<H", self.data, vtable + slot)
        return self.at + offset if offset else None

    def _target(self, field: int) -> int | None:
        place = self._place(field)
        return None if place is None else place + _unpack("<I", self.data, place)

    def _items(self, field: int, width: int) -> range:
        start = self._target(field)
        if start is None:
            return range(0, 0, width)
        stop = start + 4 + _unpack("<I", self.data, start) * width
        if stop > len(self.data):
            raise DamagedError(f"a vector ends at byte {stop}, the file at {len(self.data)}; download it again")
        return range(start + 4, stop, width)


def _unpack(kind: str, data: memoryview, place: int) -> int:
    if place < 0 or place + struct.calcsize(kind) > len(data):
        raise DamagedError(f"an offset points to byte {place} of {len(data)}: cut short, or not a flatbuffer")
    return struct.unpack_from(kind, data, place)[0]
