"""The rows of a Hugging Face dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ip2p_lightning.curation.origins.base import Candidate, Listing
from ip2p_lightning.data.sources.base import SPLITS
from ip2p_lightning.data.sources.hub import Columns, HubDataset, load_tables, own_split
from ip2p_lightning.errors import DataError


@dataclass(eq=False)
class HubOrigin(HubDataset):
    """Pairs in a `datasets` dataset, as training reads it, with the dataset's own instructions.

    licence: of the images, for the card.
    """

    prompts: Literal["own", "pool"] = field(default="own", init=False)
    licence: str = ""

    def facts(self) -> dict[str, str]:
        return {"home": self.name} | ({"licence": self.licence} if self.licence else {})

    def list(self) -> Listing:
        """Every row of the known splits. Raises UserError as `load_tables` does, DataError for a missing column."""
        found, candidates = load_tables(self.name, self.revision), []
        for split in SPLITS:
            theirs = own_split(found, split)
            if theirs is not None:
                table, columns = self.undecoded(found[theirs])
                self._tables[theirs] = table
                names = [name for name in columns[2:] if name]
                texts = table.select_columns(names) if names else [{}] * len(table)
                candidates += [_candidate(columns, theirs, split, i, row) for i, row in enumerate(texts)]
        return Listing(sorted(candidates), [])

    def read(self, place: str, limit: int) -> bytes:
        split, row, column = place.split("/", 2)
        stored = self._tables[split][int(row)][column]
        content = (stored or {}).get("bytes")
        if not content:
            raise DataError("no image bytes in the dataset")
        if len(content) > limit:
            raise DataError(f"{len(content)} bytes, more than {limit}")
        return content


def _candidate(columns: Columns, theirs: str, split: str, i: int, texts: dict[str, Any]) -> Candidate:
    prompt, scene = texts.get(columns.prompt or ""), texts.get(columns.group or "")
    original, edited = (f"{theirs}/{i}/{column}" for column in (columns.original, columns.edited))
    prompt = prompt if isinstance(prompt, str) and prompt.strip() else None
    size = 1 << 19  # not known before it is read: two images of a quarter of a megabyte
    scene = None if scene is None else str(scene)
    return Candidate(f"{theirs}/{i:07d}", original, edited, prompt, split, scene, bytes=size)
