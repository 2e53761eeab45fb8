"""The rows of a dataset: waiting in Arrow files until their split is known, then as Parquet.

The bytes of a Parquet file depend on its rows alone.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

IMAGES = ("original_image", "edited_image")
STORED = ("original_image", "edit_prompt", "edited_image", "task", "id")
COLUMNS = (*STORED, "source_id", "split")
GROUP_BYTES, GROUP_ROWS = 1 << 20, 64  # a row is read with its group: groups are small, so that random access is cheap

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class Row(NamedTuple):
    """A row that waited, and what was decided about it since."""

    stored: pa.RecordBatch
    """One row, in the columns `STORED`, its images still in the file."""
    source_id: str
    split: str


class Groups:
    """Writes rows in groups of about a megabyte: memory is bounded by a group. For a `with` block."""

    def __init__(self, writer: Any, table: Callable[[list[Any]], pa.Table]) -> None:
        self._writer, self._table = writer, table
        self._rows: list[Any] = []
        self._bytes = 0

    def __enter__(self) -> Groups:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Write what is left and the footer; after an error nothing, the file is about to be removed."""
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
    """About what a row takes in a file."""
    return 256 + sum(len(row[name]["bytes"]) for name in IMAGES)


# ---- waiting ----


def waiting(file: BinaryIO) -> Groups:
    """Takes rows as dictionaries, of which an image is ``{"bytes": ..., "path": ...}``; each gets a checksum."""
    fields = [pa.field(name, _IMAGE if name in IMAGES else pa.string()) for name in STORED]
    kept = pa.schema([*fields, pa.field("crc", pa.uint32())])
    return Groups(
        pa.ipc.new_file(file, kept), lambda rows: pa.Table.from_pylist([r | {"crc": _crc(r)} for r in rows], kept)
    )


def stored(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Id and row of what waits in a file, as far as it is wanted; the rest is not even read.

    Raises:
        OSError, ValueError: not there, or its bytes changed.
    """
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            batch.validate(full=True)
            for i, name in enumerate(batch.column("id").to_pylist()):
                if name in wanted:
                    row = batch.slice(i, 1)
                    if _crc(_viewed(row)) != row.column("crc")[0].as_py():
                        raise ValueError(f"the bytes of '{name}' changed")
                    yield name, row.select(STORED)


def _crc(row: Mapping[str, Any]) -> int:
    texts = (row["id"], row["task"], row["edit_prompt"], *(row[name]["path"] for name in IMAGES))
    found = zlib.crc32("\0".join(texts).encode())
    for name in IMAGES:
        found = zlib.crc32(row[name]["bytes"], found)
    return found


def _viewed(row: pa.RecordBatch) -> dict[str, Any]:
    """A row as a dictionary, without a copy of its images."""
    texts = {name: row.column(name)[0].as_py() for name in STORED if name not in IMAGES}
    images = {name: row.column(name)[0] for name in IMAGES}
    return texts | {n: {"bytes": v["bytes"].as_buffer(), "path": v["path"].as_py()} for n, v in images.items()}


# ---- Parquet ----


def schema(columns: tuple[str, ...] = COLUMNS) -> pa.Schema:
    """The columns, with the features under which `datasets` reads them: two Image, the others Value("string")."""
    features = {
        name: {"_type": "Image"} if name in IMAGES else {"dtype": "string", "_type": "Value"} for name in columns
    }
    note = json.dumps({"info": {"features": features}})
    fields = [pa.field(name, _IMAGE if name in IMAGES else pa.string()) for name in columns]
    return pa.schema(fields, metadata={"huggingface": note})


def parquet(file: BinaryIO) -> Groups:
    """Takes each `Row`."""
    writer = pq.ParquetWriter(
        file,
        schema(),
        compression="NONE",  # images are compressed already
        use_dictionary=["task", "split", "edit_prompt"],
        write_statistics=False,
        write_page_checksum=True,  # a flipped bit is noticed when the row is read
    )
    return Groups(writer, _decided)


def _decided(rows: list[Row]) -> pa.Table:
    batches = pa.Table.from_batches([row.stored for row in rows])
    more = [pa.array([row.source_id for row in rows]), pa.array([row.split for row in rows])]
    return pa.Table.from_arrays([*batches.columns, *more], schema=schema())
