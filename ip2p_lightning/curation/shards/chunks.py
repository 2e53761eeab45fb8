"""The work of a build, cut into chunks that are done independently, each exactly once.

A chunk is two files: its accepted rows, then its report with the first line as its mark. The report appears, complete,
after the rows: a chunk without a report is not done. What is in them depends on the candidates alone.
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
from ip2p_lightning.curation.shards.parquet import STORED, row_bytes, waiting
from ip2p_lightning.curation.sources.base import Candidate, Refusal
from ip2p_lightning.system.files import write_atomic

MOST, MOST_BYTES = 256, 64 << 20  # candidates, and bytes of their files: half a minute's work at most


class Chunk(NamedTuple):
    """Successive candidates of one part."""

    number: int
    part: int
    candidates: Sequence[Candidate]

    @property
    def key(self) -> str:
        """Of what the result depends on, besides the settings."""
        text = json.dumps([list(c) for c in self.candidates])
        return hashlib.sha256(text.encode()).hexdigest()


class Outcome(NamedTuple):
    """How many of a chunk's candidates were accepted, of how many."""

    accepted: int
    total: int


def cut(parts: Iterable[Sequence[Candidate]]) -> list[Chunk]:
    """Every part's candidates in chunks: the same for the same candidates, however many machines do them."""
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


def done(folder: Path, chunk: Chunk) -> Outcome | None:
    """The outcome of a chunk that was done before, from the same files; None if it is to be done."""
    try:
        with report_file(folder, chunk.number).open(encoding="utf-8") as file:
            mark = json.loads(file.readline())
    except (FileNotFoundError, ValueError):
        return None
    rows = rows_file(folder, chunk.number)
    whole = rows.is_file() and rows.stat().st_size == mark["size"]
    return Outcome(mark["accepted"], len(chunk.candidates)) if whole and mark["key"] == chunk.key else None


def work(folder: Path, chunk: Chunk, part: Part, audit: Audit, count: Callable[[str], int]) -> Outcome:
    """Examine a chunk's candidates and write its two files. Raises SecurityError, and StorageError if it cannot."""
    lines: list[dict[str, Any]] = []

    def write(file: Any) -> None:
        with waiting(file) as rows:
            for candidate in chunk.candidates:
                found = examine(candidate, part, audit, count)
                if isinstance(found, Refusal):
                    lines.append(found._asdict() | {"task": part.task})
                    continue
                row = _row(candidate, part, found)
                rows.write(row, row_bytes(row))
                lines.append(_line(row, candidate, found))

    path = rows_file(folder, chunk.number)
    write_atomic(path, write)
    accepted = sum("stage" not in line for line in lines)
    mark = {"key": chunk.key, "accepted": accepted, "size": path.stat().st_size}
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [mark, *lines])
    write_atomic(report_file(folder, chunk.number), text.encode())
    return Outcome(accepted, len(chunk.candidates))


def _row(candidate: Candidate, part: Part, example: Example) -> dict[str, Any]:
    first, second = ({"bytes": content, "path": name} for name, content in example.images)
    name = f"{part.task}/{candidate.id}"
    return dict(zip(STORED, (first, example.prompt, second, part.task, name), strict=True))


def _line(row: dict[str, Any], candidate: Candidate, example: Example) -> dict[str, Any]:
    """What the division into splits needs (under "_"), and what the report will say."""
    bits, mirrored, thumb = example.likeness
    private = {
        "split": candidate.split,
        "scene": candidate.scene,
        "prints": example.prints,
        "bits": bits,
        "mirrored": mirrored,
        "thumb": base64.b64encode(thumb).decode(),
        "bytes": row_bytes(row),
    }
    return {"id": row["id"], "task": row["task"], **example.facts, "_": private}


def reports(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """The lines of all chunks, in order, without the marks; each knows its chunk."""
    for number in range(count):
        with report_file(folder, number).open(encoding="utf-8") as file:
            file.readline()
            for line in file:
                yield json.loads(line) | {"chunk": number}
