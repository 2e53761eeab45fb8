"""Datasets written by ``ip2p-data build``: pairs in Parquet files, read by row and never as a whole."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ip2p_lightning.data.image import Image, open_image
from ip2p_lightning.data.sources.base import EmptySplitError, Maker, Split, checked_split, viewed_pair
from ip2p_lightning.data.sources.fingerprints import text_hash
from ip2p_lightning.data.sources.image_files import checked_folder
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DamagedError, DataError, UserError, suggest
from ip2p_lightning.system.file_digests import Digests
from ip2p_lightning.system.files import read_json

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

METADATA = "dataset.json"
WORK = ".work"  # a build in progress
_IMAGES = ("original_image", "edited_image")


@dataclass(eq=False)
class Built:
    """Pairs of a built dataset, in its splits.

    Rows are found by number: an epoch's order needs no pass over the files, and a resumed run continues with the row it
    would have read. Memory holds ids and prompts of the split, and `memory` megabytes of encoded images.

    root: the folder that `ip2p-data build` wrote. task: use only pairs of this task; None: all.
    prompts: "own" uses the dataset's instructions, "pool" the task's, drawn in every epoch.
    memory: megabytes of encoded images kept, per process.
    """

    root: str
    task: str | None = None
    prompts: Literal["own", "pool"] = "own"
    memory: float = 256

    def __post_init__(self) -> None:
        if self.prompts not in ("own", "pool"):
            raise UserError(f"Built.prompts={self.prompts}: give own or pool")
        if not 0 <= self.memory < float("inf"):
            raise UserError(f"Built.memory={self.memory}: give megabytes, 0 or more")

    def pairs(self, split: Split, make: Maker | None = None) -> BuiltPairs:
        """The pairs of a split. Raises UserError: no finished dataset there; DataError: nothing for this split or task;
        DamagedError: a file is missing, or not as long as when it was written.
        """
        checked_split(split)
        root = checked_folder(self.root, "Built.root")
        metadata = read_metadata(root)
        if self.task is not None and self.task not in metadata["tasks"]:
            near = suggest(self.task, metadata["tasks"]) or f": it has {', '.join(metadata['tasks'])}"
            raise DataError(f"{root}: no task '{self.task}'{near}")
        files = {name: known for name, known in sorted(metadata["files"].items()) if name.startswith(f"data/{split}-")}
        for name, known in files.items():
            path, size = root / name, known["bytes"]
            if not path.is_file() or path.stat().st_size != size:
                raise DamagedError(f"{path}: missing, or not the {size} bytes that were written; copy or rebuild it")
        if files:
            table = _Table([root / name for name in files], int(self.memory * 2**20))
            hashes = {name: known["sha256"] for name, known in files.items()}
            pairs = BuiltPairs(table, self.task, self.prompts == "own", hashes)
            if len(pairs):
                return pairs
        which = f" of task '{self.task}'" if self.task else ""
        there = (
            f"it has {', '.join(metadata['splits'])}; build it with a larger source.{split}=, or of published splits"
        )
        raise EmptySplitError(f"{root}: no pair{which} for split '{split}', {there}")


def read_metadata(folder: Path) -> dict[str, Any]:
    """``dataset.json`` of a finished dataset. Raises UserError: there is none; DamagedError: it cannot be read."""
    path = folder / METADATA
    try:
        metadata = read_json(path)
    except FileNotFoundError:
        unfinished = "the build is not finished: run its command again"
        how = unfinished if (folder / WORK).is_dir() else "ip2p-data build makes one"
        raise UserError(f"{folder}: no finished dataset ({METADATA} is missing); {how}") from None
    except OSError as error:
        raise DamagedError(f"{path}: {error}; copy or build the dataset again") from None
    if not (metadata.get("complete") and isinstance(metadata.get("files"), dict)):
        raise DamagedError(f"{path}: does not describe a complete dataset; build it again")
    return metadata


class BuiltPairs:
    """Rows of one split."""

    def __init__(self, table: _Table, task: str | None, own_prompts: bool, hashes: dict[str, str]) -> None:
        self._table, self._own, self._version = table, own_prompts, text_hash(*hashes.values())
        self._hashes = {name: sha256[:16] for name, sha256 in hashes.items()}
        texts = table.columns(["id", "edit_prompt", "task"])
        tasks = np.asarray(texts.column("task").to_pandas())
        self._rows = np.flatnonzero(tasks == task) if task is not None else np.arange(len(tasks))
        self._ids, self._prompts = texts.column("id"), texts.column("edit_prompt")

    def __len__(self) -> int:
        return len(self._rows)

    def id(self, i: int) -> str:
        return self._ids[int(self._rows[i])].as_py()

    def prompt(self, i: int) -> str | None:
        return self._prompts[int(self._rows[i])].as_py() if self._own else None

    def pair(self, i: int, rng: np.random.Generator, view: View) -> tuple[Image, Image]:
        """``(original, edited)``; `DamagedError` naming the file if its bytes changed since it was built."""
        name = self.id(i)
        images = [
            open_image(content, name=f"{name}, {column}")
            for column, content in zip(_IMAGES, self._table.images(int(self._rows[i])), strict=True)
        ]
        return viewed_pair(images, name, rng, view)

    def sources(self, i: int) -> tuple[Path | bytes, ...]:
        return self._table.images(int(self._rows[i]))

    def row_name(self, i: int) -> str:
        """Names row `i` of these very files: equal names mean equal sources, without reading them."""
        return f"{self._version} {int(self._rows[i])}"

    def contents(self, digests: Digests) -> dict[str, str]:
        """Hashes of the files as they were built (reading verifies their pages), and of which rows are used."""
        return self._hashes | {"rows": text_hash(self._rows.tolist())}


class _Table:
    """The rows of several Parquet files as one table, read a group of rows at a time."""

    def __init__(self, paths: list[Path], memory: int) -> None:
        import pyarrow.parquet as pq

        self._paths, self._memory = paths, memory
        self._groups: list[tuple[int, int]] = []
        sizes = []
        for number, path in enumerate(paths):
            with _damage(path), pq.ParquetFile(path) as file:
                self._groups += [(number, group) for group in range(file.num_row_groups)]
                sizes += [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._forget()

    def _forget(self) -> None:
        self._files: dict[int, pq.ParquetFile] = {}
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()
        self._bytes, self._process = 0, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Without open files and kept rows: another process opens its own."""
        return self.__dict__ | {"_files": {}, "_kept": OrderedDict(), "_bytes": 0, "_process": 0}

    def columns(self, names: list[str]) -> pa.Table:
        """Whole columns, without the images."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = []
        for path in self._paths:
            with _damage(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
                tables.append(file.read(names))
        return pa.concat_tables(tables)

    def images(self, row: int) -> tuple[bytes, bytes]:
        """The encoded images of a row."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        table, at = self._group(group), row - int(self._starts[group])
        first, second = (table.column(name)[at]["bytes"].as_py() for name in _IMAGES)
        return first, second

    def _group(self, group: int) -> pa.Table:
        if self._process != os.getpid():  # forked: the parent's files are not ours
            self._forget()
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        number, inner = self._groups[group]
        with _damage(self._paths[number]):
            table = self._file(number).read_row_group(inner, list(_IMAGES), use_threads=False)
        self._kept[group] = table
        self._bytes += table.nbytes
        while self._bytes > self._memory and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return table

    def _file(self, number: int) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        if number not in self._files:
            if len(self._files) >= 64:  # a large dataset has more files than a process may have open
                self._files.pop(next(iter(self._files))).close()
            self._files[number] = pq.ParquetFile(self._paths[number], page_checksum_verification=True)
        return self._files[number]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what the reader raises on changed bytes into one line that names the file."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:120]
        raise DamagedError(f"{path}: cannot be read: {reason}; copy or build the dataset again") from None
