"""A table of pairs: one line each, in CSV or JSON lines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ip2p_lightning.data.prompts import cleaned_prompt
from ip2p_lightning.data.sources.base import SPLITS, EmptySplitError, Maker, Split, checked_split
from ip2p_lightning.data.sources.fingerprints import text_hash
from ip2p_lightning.data.sources.folder import FilePairs, Row, divided
from ip2p_lightning.data.sources.image_files import image_store, refuse_unread
from ip2p_lightning.data.sources.manifest_reader import PathCheck, cell, records, same_name
from ip2p_lightning.data.sources.splits import checked_fractions, empty_split
from ip2p_lightning.errors import DataError


@dataclass(eq=False)
class Manifest:
    """Pairs listed in a ``.csv`` (with a header) or ``.jsonl`` file, UTF-8.

    Optional columns: ``id`` (default: both paths, and for further captions of a pair a hash of the caption), ``split``
    (train, val or test; without it, pairs that share an image are split together, by the original's pixels), ``task``
    (see below).

    path: the file. root: folder that paths are relative to and must stay within; None: the manifest's folder.
    original, edited: columns with the paths of the images before and after the edit.
    prompt: column with the instruction; None, an empty cell, or no column "prompt", draws from the task's prompts.
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
        self._published = False

    def pairs(self, split: Split, make: Maker | None = None) -> FilePairs:
        """The lines of a split. Raises UserError: no such manifest; DataError: an unreadable line, a missing column or
        file, an id twice, or no line for the split; SecurityError: a path that leaves the root.
        """
        checked_split(split)
        self._rows = self._rows or self._read()
        if rows := [row for row in self._rows if row.split == split]:
            return FilePairs(rows, self._store)
        if self._published:
            raise EmptySplitError(f"{self.file}: no line for split '{split}'; its column 'split' names others only")
        raise empty_split(self.file, "line", split, "a column 'split'")

    def row(self, record: Mapping[str, Any], where: str, seen: set[int]) -> Row | None:
        """The fields of one line, as they are written; None for another task. Raises DataError naming the field.

        seen: the captions of pairs without an id, so far.
        """
        if self.task is not None and cell(record, "task", where) != self.task:
            return None
        original, edited = cell(record, self.original, where), cell(record, self.edited, where)
        split = cell(record, "split", where) if record.get("split") else None
        if split is not None and split not in SPLITS:
            raise DataError(f"{where}: split '{split}' is not train, val or test")
        prompt = cell(record, self.prompt, where) if self._has_prompt(record) else None
        if record.get("id") not in (None, ""):
            return Row(cell(record, "id", where), original, edited, prompt, split)
        name = f"{original} > {edited}"
        pair, caption = hash(same_name(name)), hash((same_name(name), prompt))
        further = pair in seen and caption not in seen
        seen.update((pair, caption))
        return Row(f"{name} ({text_hash(prompt)})" if further else name, original, edited, prompt, split)

    def _has_prompt(self, record: Mapping[str, Any]) -> bool:
        if self.prompt is None or record.get(self.prompt) in (None, ""):
            return self.prompt not in (None, "prompt") and self.prompt not in record  # asked for: said to be missing
        return True

    def nothing(self) -> str:
        """What is wrong with a manifest without a line for the task."""
        return f"{self.file}: no line" + (f" with task '{self.task}'" if self.task else "")

    def _read(self) -> list[Row]:
        inside = PathCheck(self.folder)
        seen: dict[str, int] = {}
        captions = set[int]()
        rows, numbers = [], []
        for number, record in records(self.file):
            where = f"{self.file}, line {number}"
            row = self.row(record, where, captions)
            if row is None:
                continue
            first = seen.setdefault(same_name(row.id), number)
            if first != number:
                raise DataError(f"{where}: field 'id': '{row.id}' is already on line {first}")
            prompt = row.prompt and cleaned_prompt(row.prompt, f"{where}: field '{self.prompt}'")
            original = inside(row.original, f"{where}, field '{self.original}'")
            edited = inside(row.edited, f"{where}, field '{self.edited}'")
            for path, field in ((original, self.original), (edited, self.edited)):
                refuse_unread(path, f"{where}, field '{field}': '{path}'")
            rows.append(Row(row.id, original, edited, prompt, row.split))
            numbers.append(number)
        if not rows:
            raise DataError(self.nothing())
        self._published = any(row.split for row in rows)
        for row, number in zip(rows, numbers, strict=True):
            if self._published and row.split is None:
                raise DataError(f"{self.file}, line {number}: field 'split' is empty, on other lines it is not")
        return rows if self._published else divided(rows, self.val, self.test)
