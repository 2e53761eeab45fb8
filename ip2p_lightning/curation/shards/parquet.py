"""The rows of a dataset: in Arrow files until their split is known, then as Parquet.

The bytes of a Parquet file depend on its rows alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from ip2p_lightning.errors import DamagedError

IMAGES = ("original_image", "edited_image")
STORED = ("original_image", "edit_prompt", "edited_image", "task", "id")
COLUMNS = (*STORED, "source_id", "split")
GROUP_BYTES, GROUP_ROWS = 1 << 20, 64  # a row is read with its group: groups are small, so that random access is cheap

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class Row(NamedTuple):
    """A row of an Arrow file with its split."""

    stored: pa.RecordBatch
    """One row, in the columns `STORED`; its images are still in the file."""
    source_id: str
    split: str


class GroupWriter:
    """A context manager that writes rows in groups of about a megabyte, which bounds the memory."""

    def __init__(self, writer: Any, table: Callable[[list[Any]], pa.Table]) -> None:
        self._writer, self._table = writer, table
        self._rows: list[Any] = []
        self._bytes = 0

    def __enter__(self) -> GroupWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Write the last group and the footer; nothing after an error, when the file is about to be removed."""
        if kind is None:
            self._flush()
            self._writer.close()
        else:
            self._writer.is_open = False

    def write(self, row: Any, size: int) -> None:
        """Add a row of about `size` bytes."""
        self._rows.append(row)
        self._bytes += size
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._table(self._rows))
            self._rows, self._bytes = [], 0


def row_bytes(row: Mapping[str, Any]) -> int:
    """Approximate size of a row in a file."""
    return 256 + sum(len(row[name]["bytes"]) for name in IMAGES)


def arrow_writer(file: BinaryIO) -> GroupWriter:
    """Takes rows as dictionaries, with images as ``{"bytes": ..., "path": ...}``; each gets a checksum."""
    kept = pa.schema([*_fields(STORED), pa.field("crc", pa.uint32())])
    return GroupWriter(
        pa.ipc.new_file(file, kept), lambda rows: pa.Table.from_pylist([r | {"crc": _crc(r)} for r in rows], kept)
    )


def _fields(columns: Iterable[str]) -> list[pa.Field]:
    return [pa.field(name, _IMAGE if name in IMAGES else pa.string()) for name in columns]


def read_rows(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Id and row of the rows `wanted` of an Arrow file; `DamagedError` if it is damaged, or a row is missing."""
    left = set(wanted)
    try:
        for name, row in _checked_rows(path, wanted):
            left.discard(name)
            yield name, row
        if left:
            raise ValueError(f"'{min(left)}' is missing")
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: {error}; remove it and run the same command again") from None


def _checked_rows(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            batch.validate(full=True)
            for i, name in enumerate(batch.column("id").to_pylist()):
                if name in wanted:
                    row = batch.slice(i, 1)
                    if _crc(_as_dict(row)) != row.column("crc")[0].as_py():
                        raise ValueError(f"the bytes of '{name}' changed")
                    yield name, row.select(STORED)


def _crc(row: Mapping[str, Any]) -> int:
    texts = (row["id"], row["task"], row["edit_prompt"], *(row[name]["path"] for name in IMAGES))
    found = zlib.crc32("\0".join(texts).encode())
    for name in IMAGES:
        found = zlib.crc32(row[name]["bytes"], found)
    return found


def _as_dict(row: pa.RecordBatch) -> dict[str, Any]:
    """A row as a dictionary, without a copy of its images."""
    texts = {name: row.column(name)[0].as_py() for name in STORED if name not in IMAGES}
    images = {name: row.column(name)[0] for name in IMAGES}
    return texts | {n: {"bytes": v["bytes"].as_buffer(), "path": v["path"].as_py()} for n, v in images.items()}


def schema() -> pa.Schema:
    """The columns, with the features under which `datasets` reads them: two Image, the others Value("string")."""
    features = {
        name: {"_type": "Image"} if name in IMAGES else {"dtype": "string", "_type": "Value"} for name in COLUMNS
    }
    note = json.dumps({"info": {"features": features}})
    return pa.schema(_fields(COLUMNS), metadata={"huggingface": note})


def parquet_writer(file: BinaryIO) -> GroupWriter:
    """Takes instances of `Row`."""
    writer = pq.ParquetWriter(
        file,
        schema(),
        compression="NONE",  # images are compressed already
        use_dictionary=["task", "split", "edit_prompt"],
        write_statistics=False,
        write_page_checksum=True,  # a flipped bit is noticed when the row is read
    )
    return GroupWriter(writer, _table)


def _table(rows: list[Row]) -> pa.Table:
    batches = pa.Table.from_batches([row.stored for row in rows])
    more = [pa.array([row.source_id for row in rows]), pa.array([row.split for row in rows])]
    return pa.Table.from_arrays([*batches.columns, *more], schema=schema())
