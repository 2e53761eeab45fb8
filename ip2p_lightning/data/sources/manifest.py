"""A table of pairs: one line each, in CSV or JSON lines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ip2p_lightning.data.image import Image
from ip2p_lightning.data.prompts import cleaned_prompt
from ip2p_lightning.data.sources.base import SPLITS, Maker, Split, checked_split
from ip2p_lightning.data.sources.fingerprints import text_hash
from ip2p_lightning.data.sources.folder import pair_hashes, paired_view
from ip2p_lightning.data.sources.image_files import ImageStore, image_store
from ip2p_lightning.data.sources.manifest_reader import PathCheck, cell, records, same_name
from ip2p_lightning.data.sources.splits import Groups, checked_fractions, split_groups
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError
from ip2p_lightning.system.file_digests import Digests


class Row(NamedTuple):
    """One line of a manifest; strings, because a manifest may have a million lines."""

    id: str
    original: str
    edited: str
    prompt: str | None
    split: str | None


class Manifest:
    """Pairs listed in a ``.csv`` (with a header) or ``.jsonl`` file, UTF-8.

    Optional columns: ``id`` (default: both paths), ``split`` (train, val or test; without it, pairs that share
    an image stay together and are split by hash), ``task`` (see below).

    Args:
        path: the manifest.
        root: folder that paths are relative to and must stay within; None: the manifest's folder.
        original: column with the path of the image before the edit.
        edited: column with the path of the image after it.
        prompt: column with the instruction; None, or an empty cell, draws from the task's prompts.
        task: use only lines whose ``task`` column says this; None: all lines.
        val: fraction for validation where there is no split column, within [0, 1).
        test: fraction for testing there, within [0, 1).
        memory: megabytes of decoded images kept, per process and shared between sources.
    """

    def __init__(
        self,
        path: str,
        root: str | None = None,
        original: str = "original",
        edited: str = "edited",
        prompt: str | None = "prompt",
        task: str | None = None,
        val: float = 0.1,
        test: float = 0.1,
        memory: float = 512,
    ) -> None:
        checked_fractions("Manifest", val, test)
        self.path, self.task = Path(path).expanduser(), task
        self.folder = os.path.realpath(Path(root).expanduser() if root else self.path.parent)
        self.original, self.edited, self.prompt = original, edited, prompt
        self.val, self.test = val, test
        self._store = image_store(memory, "Manifest")
        self._rows: list[Row] = []

    def pairs(self, split: Split, make: Maker | None = None) -> ManifestPairs:
        """The lines of a split; `make` is not used, both sides are here.

        Raises:
            UserError: no such manifest.
            DataError: an unreadable line, a missing column or file, an id twice, or no line for the split.
            SecurityError: a path that leaves the root.
        """
        checked_split(split)
        self._rows = self._rows or self._read()
        if all(row.split is None for row in self._rows):
            self._rows = self._divided(self._rows)
        rows = [row for row in self._rows if row.split == split]
        if not rows:
            raise DataError(f"{self.path}: no line for split '{split}'")
        return ManifestPairs(rows, self._store)

    def row(self, record: Mapping[str, Any], where: str) -> Row | None:
        """The fields of one line, as they are written; None for another task. Raises DataError naming the field."""
        if self.task is not None and cell(record, "task", where) != self.task:
            return None
        original, edited = cell(record, self.original, where), cell(record, self.edited, where)
        split = cell(record, "split", where) if record.get("split") else None
        if split is not None and split not in SPLITS:
            raise DataError(f"{where}: split '{split}' is not train, val or test")
        prompt = cell(record, self.prompt, where) if self.prompt is not None and record.get(self.prompt) else None
        name = cell(record, "id", where) if record.get("id") not in (None, "") else f"{original} > {edited}"
        return Row(name, original, edited, prompt, split)

    def _read(self) -> list[Row]:
        inside = PathCheck(self.folder)
        seen: dict[str, int] = {}
        rows = []
        for number, record in records(self.path):
            where = f"{self.path}, line {number}"
            row = self.row(record, where)
            if row is None:
                continue
            if self.prompt is not None and self.prompt not in record:
                cell(record, self.prompt, where)
            first = seen.setdefault(same_name(row.id), number)
            if first != number:
                raise DataError(f"{where}: field 'id': '{row.id}' is already on line {first}")
            rows.append(self._checked(row, inside, where))
        if not rows:
            raise DataError(self.nothing())
        return rows

    def nothing(self) -> str:
        """What is wrong with a manifest without a line for the task."""
        return f"{self.path}: no line" + (f" with task '{self.task}'" if self.task else "")

    def _checked(self, row: Row, inside: PathCheck, where: str) -> Row:
        prompt = row.prompt and cleaned_prompt(row.prompt, f"{where}: field '{self.prompt}'")
        original = inside(row.original, f"{where}, field '{self.original}'")
        edited = inside(row.edited, f"{where}, field '{self.edited}'")
        return Row(row.id, original, edited, prompt, row.split)

    def _divided(self, rows: list[Row]) -> list[Row]:
        groups = Groups()
        for row in rows:
            groups.join(row.original, row.edited)
        names = [groups.root(row.original).removeprefix(self.folder) for row in rows]  # the same with another root
        place = split_groups(names, self.val, self.test, str(self.path))
        return [Row(*row[:4], place[name]) for row, name in zip(rows, names, strict=True)]


class ManifestPairs:
    """The lines of one split."""

    def __init__(self, rows: list[Row], store: ImageStore) -> None:
        self._rows, self._store = rows, store

    def __len__(self) -> int:
        return len(self._rows)

    def id(self, i: int) -> str:
        """The ``id`` column, or both paths as written."""
        return self._rows[i].id

    def prompt(self, i: int) -> str | None:
        """The line's instruction, if it has one."""
        return self._rows[i].prompt

    def pair(self, i: int, rng: np.random.Generator, view: View) -> tuple[Image, Image]:
        """``(original, edited)``; `DataError` naming both files if they differ in size."""
        return paired_view(Path(self._rows[i].original), Path(self._rows[i].edited), self._store, rng, view)

    def sources(self, i: int) -> tuple[Path | bytes, ...]:
        """Both files."""
        return Path(self._rows[i].original), Path(self._rows[i].edited)

    def contents(self, digests: Digests) -> dict[str, str]:
        """Hashes of both files and of the instruction of every line."""
        prompts = {f"{row.id} (prompt)": text_hash(row.prompt) for row in self._rows if row.prompt is not None}
        return pair_hashes({row.id: (row.original, row.edited) for row in self._rows}, digests) | prompts
