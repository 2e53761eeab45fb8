"""All chunks to one dataset: splits, shards, report, card, and last ``dataset.json``, which marks it complete."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ip2p_lightning.curation.audit.perceptual_hash import PerceptualHash
from ip2p_lightning.curation.audit.splits import Entry, Fractions, assign_splits
from ip2p_lightning.curation.shards import dataset_card
from ip2p_lightning.curation.shards.chunks import reports, rows_file
from ip2p_lightning.curation.shards.parquet import Row, parquet_writer, read_rows
from ip2p_lightning.curation.shards.report import REPORT, write_report
from ip2p_lightning.data.sources.base import SPLITS
from ip2p_lightning.data.sources.built import METADATA
from ip2p_lightning.errors import DataError, StorageError
from ip2p_lightning.system.files import sha256_of, storage_errors, sync_folder, write_atomic, write_json


def assemble(work: Path, plan: Mapping[str, Any], on_bad: str, progress: bool) -> None:
    """Write the dataset of finished chunks to ``work/final``.

    Raises DataError: a candidate was rejected and on_bad is "fail" (``work/report.jsonl`` says which), none was
    accepted.
    """
    entries, rejected = _entries(work, plan)
    fractions = {part["task"]: Fractions(part["val"], part["test"]) for part in plan["parts"]}
    lookalikes = assign_splits(entries, fractions, plan["audit"]["lookalikes"]) if entries else 0
    leaks = [entry for entry in entries if not entry.split]
    rejected += [{"path": entry.id, "stage": "leakage", "reason": entry.reason} for entry in leaks]
    if not entries or (rejected and on_bad == "fail"):
        write_report(work / REPORT, work, plan, {e.id: e for e in entries})
        first = "the source is empty"
        if rejected:
            first = f"first {rejected[0]['path']}: {rejected[0]['reason']} (all in {work / REPORT})"
        if not entries:
            raise DataError(f"nothing was accepted, {len(rejected)} rejected; {first}")
        total = len(rejected) + len(entries) - len(leaks)
        raise DataError(f"{len(rejected)} of {total} rejected; {first}; on_bad=skip leaves them out")
    counts = {"rejected": len(rejected), "lookalikes": lookalikes}
    _write(work, plan, entries, counts, progress)


def _entries(work: Path, plan: Mapping[str, Any]) -> tuple[list[Entry], list[dict[str, Any]]]:
    entries, rejected = [], list(plan["rejected"])
    for line in reports(work, plan["chunks"]):
        if "stage" in line:
            rejected.append(line)
            continue
        private = line["_"]
        bits, mirrored, thumb = private["hash"]
        looks = PerceptualHash(bits, mirrored, base64.b64decode(thumb))
        where = (private["split"], private["scene"], tuple(private["pixel_hashes"]), looks, private["bytes"])
        entries.append(Entry(line["id"], line["task"], *where, line["chunk"]))
    return entries, rejected


def _write(
    work: Path, plan: Mapping[str, Any], entries: Sequence[Entry], counts: dict[str, int], progress: bool
) -> None:
    final = work / "final"
    (final / "data").mkdir(parents=True, exist_ok=True)
    by_id = {entry.id: entry for entry in entries}
    shards = _divide(entries, plan["shard_bytes"])
    with tqdm(total=sum(map(len, shards.values())), unit="pair", desc="writing", disable=not progress) as bar:
        for name, ids in shards.items():
            path = final / "data" / name
            if not path.is_file():  # complete if there: it is renamed into place
                _write_shard(path, work, ids, by_id)
            bar.update(len(ids))
    figures = write_report(final / REPORT, work, plan, by_id)
    metadata = _metadata(plan, entries, figures, shards) | counts
    write_atomic(final / "README.md", dataset_card.text(metadata, plan).encode())
    files = sorted(p for p in final.rglob("*") if p.is_file() and p.name != METADATA)
    metadata["files"] = {
        p.relative_to(final).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in files
    }
    write_json(final / METADATA, metadata)


def _divide(entries: Sequence[Entry], most: int) -> dict[str, list[str]]:
    """Ids per file, in order; a file is closed once it holds `most` bytes."""
    shards: dict[str, list[str]] = {}
    for split in SPLITS:
        parts: list[list[str]] = []
        size = most
        for entry in entries:
            if entry.split != split:
                continue
            if size >= most:
                parts.append([])
                size = 0
            parts[-1].append(entry.id)
            size += entry.bytes
        shards |= {f"{split}-{i:05d}-of-{len(parts):05d}.parquet": ids for i, ids in enumerate(parts)}
    return shards


def _write_shard(path: Path, work: Path, ids: Sequence[str], by_id: Mapping[str, Entry]) -> None:
    wanted: dict[int, set[str]] = {}
    for name in ids:
        wanted.setdefault(by_id[name].chunk, set()).add(name)

    def write(file: Any) -> None:
        with parquet_writer(file) as rows:
            for number in sorted(wanted):  # in order of id, as the entries are
                for name, row in read_rows(rows_file(work, number), wanted[number]):
                    entry = by_id[name]
                    rows.write(Row(row, entry.source_id, entry.split), entry.bytes)

    write_atomic(path, write)


def _metadata(
    plan: Mapping[str, Any], entries: Sequence[Entry], figures: Mapping[str, Any], shards: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What is in the dataset, without date, place or user: two builds of one input are equal."""
    kept = [entry for entry in entries if entry.split]
    splits = Counter(entry.split for entry in kept)
    over = sum(n for tokens, n in figures["tokens"].items() if tokens > plan["max_tokens"])
    return {
        "format": 1,
        "complete": True,
        "plan": plan["digest"],
        "tasks": dict(sorted(Counter(entry.task for entry in kept).items())),
        "splits": {split: splits[split] for split in SPLITS if split in splits},
        "accepted": len(kept),
        "rejected_at": figures["stages"],
        "identical_pairs": figures["identical"],
        "source_images": len({entry.source_id for entry in kept}),
        "sizes": dict(figures["sizes"].most_common(20)),
        "tokens": {
            "counted": plan["tokens"],
            "longest": max(figures["tokens"], default=0),
            "most": plan["max_tokens"],
            "prompts_cut_off": over,
        },
        "rows": {name: len(ids) for name, ids in shards.items()},
    }


def publish(work: Path, out: Path) -> None:
    """Move ``work/final`` into place, ``dataset.json`` last; continues after a kill. Raises StorageError."""
    final = work / "final"
    with storage_errors(out):
        for name in ("README.md", REPORT, "data", METADATA):
            if (final / name).exists():
                (final / name).replace(out / name)
                sync_folder(out)
    if not (out / METADATA).is_file():
        raise StorageError(f"{out}: could not be completed; run the same command again")
