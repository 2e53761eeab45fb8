"""The rows of a Hugging Face dataset."""

from __future__ import annotations

from typing import Any

from ip2p_lightning.curation.sources.base import Candidate, Listing
from ip2p_lightning.data.sources.base import SPLITS
from ip2p_lightning.data.sources.hub import KNOWN, Columns
from ip2p_lightning.data.sources.hub_tables import load_tables, own_split
from ip2p_lightning.data.sources.splits import checked_fractions
from ip2p_lightning.errors import DataError, suggest


class HubRows:
    """Pairs in a `datasets` dataset: a hub id, a folder written by ``save_to_disk``, or a folder of Parquet files.

    Args:
        name: as for `ip2p_lightning.data.HubDataset`.
        original: column of the image before the edit; None: the known one, else "original".
        edited: column of the image after it; None: likewise.
        prompt: column of the instruction; None: likewise, where there is one.
        group: column whose equal values stay in one split; None: the known one, if any.
        revision: commit, tag or branch; None: the newest.
        val: fraction of "train" for validation if the dataset has no such split.
        test: fraction of it for testing, likewise.
        licence: of the images, for the card.
    """

    def __init__(
        self,
        name: str,
        original: str | None = None,
        edited: str | None = None,
        prompt: str | None = None,
        group: str | None = None,
        revision: str | None = None,
        val: float = 0.1,
        test: float = 0.1,
        licence: str = "",
    ) -> None:
        checked_fractions("source hub", val, test)
        known = KNOWN.get(name, Columns())
        self.name, self.revision, self.val, self.test, self.licence = name, revision, val, test, licence
        self.columns = Columns(
            original or known.original, edited or known.edited, prompt or known.prompt, group or known.group
        )
        self._tables: dict[str, Any] = {}

    def facts(self) -> dict[str, str]:
        return {"home": self.name} | ({"licence": self.licence} if self.licence else {})

    def list(self) -> Listing:
        """Every row of every split we know. Raises UserError as `datasets` does, DataError for a missing column."""
        import datasets

        candidates = []
        tables = load_tables(self.name, self.revision)
        for split in SPLITS:
            theirs = own_split(tables, split)
            if theirs is None:
                continue
            table = tables[theirs]
            names = self._checked(table.column_names)
            for column in names[:2]:
                table = table.cast_column(column, datasets.Image(decode=False))
            self._tables[theirs] = table
            texts = table.select_columns([c for c in names[2:] if c])
            candidates += [self._candidate(theirs, split, i, row) for i, row in enumerate(_rows(texts, len(table)))]
        return Listing(sorted(candidates), [])

    def _checked(self, present: list[str]) -> tuple[str, str, str | None, str | None]:
        original, edited, prompt, group = self.columns
        for column in (original, edited):
            if column not in present:
                raise DataError(
                    f"{self.name}: no column '{column}', it has {', '.join(present)}{suggest(column, present)}"
                )
        return original, edited, prompt if prompt in present else None, group if group in present else None

    def _candidate(self, theirs: str, split: str, i: int, row: dict[str, Any]) -> Candidate:
        prompt, scene = row.get(self.columns.prompt or ""), row.get(self.columns.group or "")
        places = [f"{theirs}/{i}/{column}" for column in self.columns[:2]]
        prompt = prompt if isinstance(prompt, str) and prompt.strip() else None
        size = 1 << 19  # not known before it is read: two images of a quarter of a megabyte
        scene = None if scene is None else str(scene)
        return Candidate(f"{theirs}/{i:07d}", *places, prompt, split, scene, bytes=size)

    def read(self, place: str, limit: int) -> bytes:
        split, row, column = place.split("/", 2)
        stored = self._tables[split][int(row)][column]
        content = (stored or {}).get("bytes")
        if not content:
            raise DataError("no image bytes in the dataset")
        if len(content) > limit:
            raise DataError(f"{len(content)} bytes, more than {limit}")
        return content


def _rows(texts: Any, count: int) -> Any:
    return texts if texts.column_names else ({} for _ in range(count))
