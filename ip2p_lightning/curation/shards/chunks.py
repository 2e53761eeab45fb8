"""The candidates of a build in chunks that are processed independently.

A chunk has two files: its accepted rows, then its report, whose first line is a header. The report is renamed into
place after the rows: a chunk without a report is not done. Both depend on the candidates alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ip2p_lightning.curation.audit.examine import Example, Part, examine
from ip2p_lightning.curation.audit.policy import Audit
from ip2p_lightning.curation.origins.base import Candidate, Rejection
from ip2p_lightning.curation.shards.parquet import STORED, arrow_writer, row_bytes
from ip2p_lightning.system.files import write_atomic

MOST, MOST_BYTES = 256, 64 << 20  # candidates, and bytes of their files: half a minute's work at most


class Chunk(NamedTuple):
    """Successive candidates of one part."""

    number: int
    part: int
    candidates: Sequence[Candidate]

    @property
    def key(self) -> str:
        """Digest of all that the result depends on, besides the settings."""
        return hashlib.sha256(json.dumps([list(c) for c in self.candidates]).encode()).hexdigest()


class Outcome(NamedTuple):
    """How many of a chunk's candidates were accepted, of how many."""

    accepted: int
    total: int


def make_chunks(parts: Iterable[Sequence[Candidate]]) -> list[Chunk]:
    """Every part's candidates in chunks: the same for the same candidates, however many machines process them."""
    chunks: list[Chunk] = []
    for part, candidates in enumerate(parts):
        start = size = 0
        for end, candidate in enumerate(candidates, 1):
            size += candidate.bytes
            if end - start == MOST or size >= MOST_BYTES or end == len(candidates):
                chunks.append(Chunk(len(chunks), part, candidates[start:end]))
                start, size = end, 0
    return chunks


def rows_file(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:06d}.arrow"


def report_file(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:06d}.jsonl"


def find_outcome(folder: Path, chunk: Chunk) -> Outcome | None:
    """The outcome of a chunk that was processed before, from the same files; None if it must be processed."""
    try:
        with report_file(folder, chunk.number).open(encoding="utf-8") as file:
            header = json.loads(file.readline())
    except (FileNotFoundError, ValueError):
        return None
    rows = rows_file(folder, chunk.number)
    complete = rows.is_file() and rows.stat().st_size == header["size"]
    return Outcome(header["accepted"], len(chunk.candidates)) if complete and header["key"] == chunk.key else None


def process_chunk(
    folder: Path, parts: Sequence[Part], audit: Audit, count: Callable[[str], int], chunk: Chunk
) -> Outcome:
    """Examine a chunk's candidates and write its two files. Raises SecurityError, and StorageError if it cannot."""
    lines: list[dict[str, Any]] = []
    part = parts[chunk.part]

    def write(file: Any) -> None:
        with arrow_writer(file) as rows:
            for candidate in chunk.candidates:
                found = examine(candidate, part, audit, count)
                if isinstance(found, Rejection):
                    lines.append(found._asdict() | {"task": part.task})
                    continue
                first, second = ({"bytes": content, "path": name} for name, content in found.images)
                name = f"{part.task}/{candidate.id}"
                row = dict(zip(STORED, (first, found.prompt, second, part.task, name), strict=True))
                rows.write(row, row_bytes(row))
                lines.append(_line(row, candidate, found))

    path = rows_file(folder, chunk.number)
    write_atomic(path, write)
    accepted = sum("stage" not in line for line in lines)
    header = {"key": chunk.key, "accepted": accepted, "size": path.stat().st_size}
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [header, *lines])
    write_atomic(report_file(folder, chunk.number), text.encode())
    return Outcome(accepted, len(chunk.candidates))


def _line(row: dict[str, Any], candidate: Candidate, example: Example) -> dict[str, Any]:
    """What the assignment of splits needs (under "_"), and what goes to the report."""
    private = {
        "split": candidate.split,
        "scene": candidate.scene,
        "pixel_hashes": example.pixel_hashes,
        "hash": [*example.hash[:2], base64.b64encode(example.hash.thumb).decode()],
        "bytes": row_bytes(row),
    }
    return {"id": row["id"], "task": row["task"], **example.facts, "_": private}


def reports(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """The lines of all chunks, in order, without the headers, each with its chunk's number."""
    for number in range(count):
        with report_file(folder, number).open(encoding="utf-8") as file:
            file.readline()
            for line in file:
                yield json.loads(line) | {"chunk": number}
