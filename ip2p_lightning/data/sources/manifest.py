"""A table of pairs: one line each, in CSV or JSON lines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ip2p_lightning.data.prompts import cleaned_prompt
from ip2p_lightning.data.sources.base import SPLITS, Maker, Split, checked_split
from ip2p_lightning.data.sources.folder import FilePairs, Row
from ip2p_lightning.data.sources.image_files import image_store
from ip2p_lightning.data.sources.manifest_reader import PathCheck, cell, records, same_name
from ip2p_lightning.data.sources.splits import Groups, checked_fractions, split_groups
from ip2p_lightning.errors import DataError


@dataclass(eq=False)
class Manifest:
    """Pairs listed in a ``.csv`` (with a header) or ``.jsonl`` file, UTF-8.

    Optional columns: ``id`` (default: both paths), ``split`` (train, val or test; without it, pairs that share
    an image stay together and are split by hash), ``task`` (see below).

    path: the file. root: folder that paths are relative to and must stay within; None: the manifest's folder.
    original, edited: columns with the paths of the images before and after the edit.
    prompt: column with the instruction; None, or an empty cell, draws from the task's prompts.
    task: use only lines whose ``task`` column says this; None: all lines.
    val, test: fractions for validation and testing where there is no split column, within [0, 1).
    memory: megabytes of decoded images kept, per process and shared between sources.
    """

    path: str
    root: str | None = None
    original: str = "original"
    edited: str = "edited"
    prompt: str | None = "prompt"
    task: str | None = None
    val: float = 0.1
    test: float = 0.1
    memory: float = 512

    def __post_init__(self) -> None:
        checked_fractions("Manifest", self.val, self.test)
        self.file = Path(self.path).expanduser()
        self.folder = os.path.realpath(Path(self.root).expanduser() if self.root else self.file.parent)
        self._store = image_store(self.memory, "Manifest")
        self._rows: list[Row] = []

    def pairs(self, split: Split, make: Maker | None = None) -> FilePairs:
        """The lines of a split. Raises UserError: no such manifest; DataError: an unreadable line, a missing column or
        file, an id twice, or no line for the split; SecurityError: a path that leaves the root.
        """
        checked_split(split)
        self._rows = self._rows or self._read()
        if all(row.split is None for row in self._rows):
            self._rows = self._divided(self._rows)
        rows = [row for row in self._rows if row.split == split]
        if not rows:
            raise DataError(f"{self.file}: no line for split '{split}'")
        return FilePairs(rows, self._store)

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

    def nothing(self) -> str:
        """What is wrong with a manifest without a line for the task."""
        return f"{self.file}: no line" + (f" with task '{self.task}'" if self.task else "")

    def _read(self) -> list[Row]:
        inside = PathCheck(self.folder)
        seen: dict[str, int] = {}
        rows = []
        for number, record in records(self.file):
            where = f"{self.file}, line {number}"
            row = self.row(record, where)
            if row is None:
                continue
            if self.prompt is not None and self.prompt not in record:
                cell(record, self.prompt, where)
            first = seen.setdefault(same_name(row.id), number)
            if first != number:
                raise DataError(f"{where}: field 'id': '{row.id}' is already on line {first}")
            prompt = row.prompt and cleaned_prompt(row.prompt, f"{where}: field '{self.prompt}'")
            original = inside(row.original, f"{where}, field '{self.original}'")
            edited = inside(row.edited, f"{where}, field '{self.edited}'")
            rows.append(Row(row.id, original, edited, prompt, row.split))
        if not rows:
            raise DataError(self.nothing())
        return rows

    def _divided(self, rows: list[Row]) -> list[Row]:
        groups = Groups()
        for row in rows:
            groups.join(row.original, row.edited)
        names = [groups.root(row.original).removeprefix(self.folder) for row in rows]  # the same with another root
        place = split_groups(names, self.val, self.test, str(self.file))
        return [Row(*row[:4], place[name]) for row, name in zip(rows, names, strict=True)]
