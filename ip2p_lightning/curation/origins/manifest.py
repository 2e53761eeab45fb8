"""Pairs listed in a CSV or JSON-lines file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ip2p_lightning.curation.origins.base import Candidate, Listing, Rejection, read_inside, without_duplicates
from ip2p_lightning.data.sources.folder import Row
from ip2p_lightning.data.sources.manifest import Manifest
from ip2p_lightning.data.sources.manifest_reader import PathCheck, digest, records
from ip2p_lightning.errors import DataError


@dataclass(eq=False)
class ManifestOrigin(Manifest):
    """The lines of a manifest, as training reads it; without a column of prompts, they are drawn from the task's.

    Columns named as those of the images with ``_sha256`` behind (``original_sha256``) say what the files must hash to.

    licence: of the images, for the card.
    """

    memory: float = field(default=0, init=False)  # nothing is decoded here
    licence: str = ""
    name: ClassVar = "manifest"

    def facts(self) -> dict[str, str]:
        return {"licence": self.licence} if self.licence else {}

    def read(self, place: str, limit: int) -> bytes:
        return read_inside(self.folder, place, limit)

    def list(self) -> Listing:
        """Every line; one that names a missing file, or lacks a field, is rejected with its number.

        Raises UserError: no such manifest; DataError: a line is unreadable; SecurityError: a path leaves the root.
        """
        inside = PathCheck(self.folder)
        candidates, lines, rejected, captions = list[Candidate](), list[int](), list[Rejection](), set[int]()
        for number, record in records(self.file):
            where = f"line {number}"
            try:
                row = self.row(record, where, captions)
                if row is not None:
                    candidates.append(self._candidate(row, record, inside, where))
                    lines.append(number)
            except DataError as error:
                rejected.append(Rejection(f"{self.file.name}:{number}", self.file.name, "list", str(error)))
        if not candidates and not rejected:
            raise DataError(self.nothing())
        return Listing(without_duplicates(candidates, rejected, lines), sorted(rejected))

    def _candidate(self, row: Row, record: Mapping[str, Any], inside: PathCheck, where: str) -> Candidate:
        row = row._replace(original=inside.on_disk(row.original), edited=inside.on_disk(row.edited))
        first, second = (
            os.stat(inside(place, f"{where}, field '{field}'"))  # noqa: PTH116  a Path for each of a million files is slow
            for field, place in ((self.original, row.original), (self.edited, row.edited))
        )
        stamp = first.st_mtime_ns ^ (second.st_mtime_ns << 1)
        size = first.st_size + second.st_size
        hashes = (digest(record, f"{self.original}_sha256", where), digest(record, f"{self.edited}_sha256", where))
        return Candidate(*row, None, hashes, size, stamp)
