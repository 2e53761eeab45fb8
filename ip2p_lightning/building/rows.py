"""The rows of a dataset as Parquet: columns, features and files whose bytes depend on the rows alone."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

IMAGES = ("original_image", "edited_image")
COLUMNS = ("original_image", "edit_prompt", "edited_image", "task", "id", "source_id", "split")
GROUP_BYTES, GROUP_ROWS = 1 << 20, 64  # a row is read with its group: groups are small, so that random access is cheap

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def schema(columns: tuple[str, ...] = COLUMNS) -> pa.Schema:
    """The columns, with the features under which `datasets` reads them: two Image, the others Value("string")."""
    features = {
        name: {"_type": "Image"} if name in IMAGES else {"dtype": "string", "_type": "Value"} for name in columns
    }
    note = json.dumps({"info": {"features": features}})
    fields = [pa.field(name, _IMAGE if name in IMAGES else pa.string()) for name in columns]
    return pa.schema(fields, metadata={"huggingface": note})


class RowWriter:
    """Writes rows to an open file in groups of about a megabyte; memory is bounded by a group. For a `with` block."""

    def __init__(self, file: BinaryIO, columns: tuple[str, ...] = COLUMNS) -> None:
        self._schema = schema(columns)
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="NONE",  # images are compressed already
            use_dictionary=[name for name in ("task", "split", "edit_prompt") if name in columns],
            write_statistics=False,
            write_page_checksum=True,  # a flipped bit is noticed when the row is read
        )
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Write what is left and the footer; after an error nothing, the file is about to be removed."""
        if kind is None:
            self._flush()
            self._writer.close()
        self._writer.is_open = False

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; an image is ``{"bytes": ..., "path": ...}``."""
        self._rows.append(row)
        self._bytes += row_bytes(row)
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows, self._bytes = [], 0


def row_bytes(row: dict[str, Any]) -> int:
    """About what a row takes in a file."""
    return 256 + sum(len(row[name]["bytes"]) for name in IMAGES)
