"""Pairs listed in a CSV or JSON-lines file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.curation.sources.base import Candidate, Listing, Refusal, read_inside, without_twins
from ip2p_lightning.data.sources.base import SPLITS
from ip2p_lightning.data.sources.manifest_reader import PathCheck, cell, digest, records
from ip2p_lightning.data.sources.splits import checked_fractions
from ip2p_lightning.errors import DataError


class Listed:
    """The lines of a manifest, as `ip2p_lightning.data.Manifest` reads it.

    Columns named as those of the images with ``_sha256`` behind (``original_sha256``) say what the files must hash to.

    Args:
        path: the ``.csv`` (with a header) or ``.jsonl`` file.
        root: folder that paths are relative to and must stay within; None: the manifest's folder.
        original: column of the image before the edit.
        edited: column of the image after it.
        prompt: column of the instruction; None, or an empty cell, draws from the task's prompts.
        task: use only lines whose ``task`` column says this; None: all lines.
        val: fraction for validation where there is no ``split`` column.
        test: fraction for testing there.
        licence: of the images, for the card.
    """

    name = "manifest"

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
        licence: str = "",
    ) -> None:
        checked_fractions("source manifest", val, test)
        self.path, self.task, self.val, self.test, self.licence = Path(path).expanduser(), task, val, test, licence
        self.original, self.edited, self.prompt = original, edited, prompt
        self._root = os.path.realpath(Path(root).expanduser() if root else self.path.parent)

    def facts(self) -> dict[str, str]:
        return {"licence": self.licence} if self.licence else {}

    def read(self, place: str, limit: int) -> bytes:
        return read_inside(self._root, place, limit)

    def list(self) -> Listing:
        """Every line; one that names a file that is not there, or lacks a field, is refused with its number.

        Raises:
            UserError: no such manifest.
            DataError: a line that cannot be read at all.
            SecurityError: a path that leaves the root.
        """
        inside = PathCheck(Path(self._root))
        candidates: list[Candidate] = []
        lines: list[int] = []
        refused: list[Refusal] = []
        for number, record in records(self.path):
            where = f"line {number}"
            try:
                if self.task is None or cell(record, "task", where) == self.task:
                    candidates.append(self._candidate(record, inside, where))
                    lines.append(number)
            except DataError as error:
                refused.append(Refusal(f"{self.path.name}:{number}", self.path.name, "list", str(error)))
        if not candidates and not refused:
            raise DataError(f"{self.path}: no line" + (f" with task '{self.task}'" if self.task else ""))
        return Listing(without_twins(candidates, refused, lines), sorted(refused))

    def _candidate(self, record: Mapping[str, Any], inside: PathCheck, where: str) -> Candidate:
        original, edited = (cell(record, name, where) for name in (self.original, self.edited))
        split = cell(record, "split", where) if record.get("split") else None
        if split is not None and split not in SPLITS:
            raise DataError(f"{where}: split '{split}' is not train, val or test")
        prompt = None
        if self.prompt is not None and record.get(self.prompt):
            prompt = cell(record, self.prompt, where)
        name = cell(record, "id", where) if record.get("id") not in (None, "") else f"{original} > {edited}"
        first, second = (
            os.stat(inside(place, f"{where}, field '{field}'"))  # noqa: PTH116  a million times
            for field, place in ((self.original, original), (self.edited, edited))
        )
        stamp = first.st_mtime_ns ^ (second.st_mtime_ns << 1)
        size = first.st_size + second.st_size
        hashes = (digest(record, f"{field}_sha256", where) for field in (self.original, self.edited))
        return Candidate(name, original, edited, prompt, split, None, tuple(hashes), size, stamp)
