"""Tensors of a TensorFlow checkpoint (``model-1.index`` and ``model-1.data-00000-of-00001``), read without TensorFlow.

The index is a sorted string table as LevelDB's (github.com/google/leveldb, doc/table_format.md) from a tensor's name to
a BundleEntryProto (tensorflow/core/protobuf/tensor_bundle.proto), which says where in the data files its bytes lie.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.system.files import storage_errors

MAGIC = 0xDB4775248B80FB57  # last eight bytes of a table
FOOTER = 48  # two block handles, padded to 40 bytes, and the magic
KINDS = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # tensorflow.DataType
LARGEST = 1 << 26  # bytes of an index: names and places only


class Entry(NamedTuple):
    """BundleEntryProto: what tensor, and where its bytes lie."""

    kind: int
    shape: list[int]
    shard: int
    offset: int
    size: int
    crc: int | None


class Bundle:
    """A checkpoint by its prefix (``.../model-1``). Tensors are read one by one, each against its checksum.

    Raises UserError: compressed or big-endian, which TensorFlow's own writer on a PC never is; DamagedError: the index
    is not a table, or is cut short; StorageError.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        path = Path(f"{prefix}.index")
        with storage_errors(path, "read"), path.open("rb") as file:
            data = file.read(LARGEST)
        try:
            found = dict(_table(data))
            header = dict(_fields(found.pop(b"", b"")))
            self.entries = {name.decode(errors="replace"): _entry(value) for name, value in found.items()}
        except (IndexError, struct.error, ValueError, TypeError):
            raise DamagedError(f"{path}: not an index of a TensorFlow checkpoint, or cut short") from None
        except UserError as error:
            raise type(error)(f"{path}: {error}") from None
        if header.get(2, 0):
            raise UserError(f"{path}: big-endian checkpoints are not supported")
        self.shards = int(header.get(1, 1))

    def read(self, name: str) -> np.ndarray:
        """One tensor. Raises KeyError for an unknown name, UserError for an odd kind, DamagedError on a mismatch."""
        entry = self.entries[name]
        if entry.kind not in KINDS:
            raise UserError(f"{self.prefix}: {name} has DataType {entry.kind}, which is not supported")
        path = Path(f"{self.prefix}.data-{entry.shard:05d}-of-{self.shards:05d}")
        with storage_errors(path, "read"), path.open("rb") as file:
            there = entry.offset + entry.size <= path.stat().st_size  # or the numbers may be anything
            file.seek(entry.offset if there else 0)
            data = file.read(entry.size if there else 0)
        kind = np.dtype(KINDS[entry.kind])
        if not there or entry.size != kind.itemsize * int(np.prod(entry.shape, dtype=np.int64)):
            raise DamagedError(f"{path}: {name} is cut short, or index and data do not belong together")
        if entry.crc is not None and masked(crc32c(data)) != entry.crc:
            raise DamagedError(f"{path}: {name} does not match its checksum; download it again")
        return np.frombuffer(data, kind).reshape(entry.shape)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every row of a table, in order."""
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise DamagedError("not an index of a TensorFlow checkpoint, or cut short")
    place = len(data) - FOOTER
    for _meta in range(2):  # the handle of the (empty) meta index comes first
        _, place = _varint(data, place)
    for _, handle in _block(data, *_handle(data, place)):
        yield from _block(data, *_handle(handle, 0))


def _handle(data: bytes, place: int) -> tuple[int, int]:
    offset, place = _varint(data, place)
    return offset, _varint(data, place)[0]


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Rows of a block: a key is stored as what it shares with the one before, and the rest."""
    if data[offset + size]:
        raise UserError("a compressed index is not supported; write the checkpoint again with TensorFlow 1.1 or later")
    if masked(crc32c(data[offset : offset + size + 1])) != struct.unpack_from("<I", data, offset + size + 1)[0]:
        raise DamagedError("the index does not match its checksum; download it again")
    block, key, place = data[offset : offset + size], b"", 0
    end = len(block) - 4 - 4 * struct.unpack("<I", block[-4:])[0]  # the restart points and their number
    while place < end:
        shared, place = _varint(block, place)
        rest, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + rest]
        place += rest + length
        yield key, block[place - length : place]


def _entry(data: bytes) -> Entry:
    found = dict(_fields(data))
    if 7 in found:
        raise UserError("partitioned variables are not supported")
    # TensorShapeProto of Dim, each with its size in field 1
    shape = [dict(_fields(dim)).get(1, 0) for n, dim in _fields(found.get(2, b"")) if n == 2]
    return Entry(found.get(1, 0), shape, found.get(3, 0), found.get(4, 0), found.get(5, 0), found.get(6))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field number and value of a protocol buffer message (protobuf.dev/programming-guides/encoding)."""
    place = 0
    value: Any
    while place < len(data):
        tag, place = _varint(data, place)
        kind, size = tag & 7, 0
        if kind == 0:
            value, place = _varint(data, place)
        elif kind == 2:
            size, place = _varint(data, place)
            value = data[place : place + size]
        else:
            size = {1: 8, 5: 4}[kind] if kind in (1, 5) else -1
            value = int.from_bytes(data[place : place + size], "little")
        if size < 0 or place + size > len(data):
            raise ValueError("not a protocol buffer message")
        place += size
        yield tag >> 3, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """An integer of seven bits a byte, least significant first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number without an end")


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC (RFC 3720, B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """A CRC as it is stored beside what it is of (LevelDB, ``util/crc32c.h``)."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = [_crc_row(byte) for byte in range(256)]
