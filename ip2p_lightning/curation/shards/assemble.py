"""All chunks to one dataset: splits, shards, report, card, and last of all the mark that it is complete."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ip2p_lightning.curation.audit.perceptual_hash import Likeness
from ip2p_lightning.curation.audit.splits import Entry, Fractions, divide
from ip2p_lightning.curation.shards import dataset_card
from ip2p_lightning.curation.shards.chunks import reports, rows_file
from ip2p_lightning.curation.shards.parquet import Row, parquet, stored
from ip2p_lightning.curation.shards.report import REPORT, write_report
from ip2p_lightning.data.sources.base import SPLITS
from ip2p_lightning.errors import DamagedError, DataError, StorageError
from ip2p_lightning.system.files import sha256_of, storage_errors, sync_folder, write_atomic, write_json

MARK = "dataset.json"


def assemble(work: Path, plan: Mapping[str, Any], on_bad: str, progress: bool) -> dict[str, Any]:
    """Write the dataset of finished chunks to ``work/final``; returns its manifest.

    Raises:
        DataError: something was refused and on_bad is "fail" (``work/report.jsonl`` says what), nothing was accepted,
            or there are too few photos to split.
    """
    entries, refused = _entries(work, plan)
    if not entries:
        write_report(work / REPORT, work, plan, {})
        raise DataError(f"nothing was accepted, {len(refused)} refused; {_first(refused, work)}")
    fractions = {part["task"]: Fractions(part["val"], part["test"]) for part in plan["parts"]}
    found = divide(entries, fractions, plan["audit"]["lookalikes"])
    leaks = [entry for entry in entries if not entry.split]
    refused += [{"path": entry.id, "stage": "leakage", "reason": entry.reason} for entry in leaks]
    if refused and on_bad == "fail":
        write_report(work / REPORT, work, plan, {e.id: e for e in entries})
        total = len(refused) + len(entries) - len(leaks)
        raise DataError(f"{len(refused)} of {total} refused; {_first(refused, work)}; on_bad=skip leaves them out")
    return _write(work, plan, entries, refused, found, progress)


def _first(refused: Sequence[Mapping[str, Any]], work: Path) -> str:
    if not refused:
        return "the source is empty"
    return f"first {refused[0]['path']}: {refused[0]['reason']} (all in {work / REPORT})"


def _entries(work: Path, plan: Mapping[str, Any]) -> tuple[list[Entry], list[dict[str, Any]]]:
    entries, refused = [], [dict(line) for line in plan["refused"]]
    for line in reports(work, plan["chunks"]):
        if "stage" in line:
            refused.append(line)
            continue
        private = line["_"]
        looks = Likeness(private["bits"], private["mirrored"], base64.b64decode(private["thumb"]))
        prints = tuple(private["prints"])
        where = (private["split"], private["scene"], prints, looks, private["bytes"], line["chunk"])
        entries.append(Entry(line["id"], line["task"], *where))
    return entries, refused


def _write(
    work: Path,
    plan: Mapping[str, Any],
    entries: Sequence[Entry],
    refused: Sequence[Mapping[str, Any]],
    found: int,
    progress: bool,
) -> dict[str, Any]:
    final = work / "final"
    (final / "data").mkdir(parents=True, exist_ok=True)
    by_id = {entry.id: entry for entry in entries}
    shards = _cut(entries, plan["shard_bytes"])
    with tqdm(total=sum(map(len, shards.values())), unit="pair", desc="writing", disable=not progress) as bar:
        for name, ids in shards.items():
            path = final / "data" / name
            if not path.is_file():  # complete if there: it is renamed into place
                _write_shard(path, work, ids, by_id)
            bar.update(len(ids))
    figures = write_report(final / REPORT, work, plan, by_id)
    manifest = _manifest(plan, entries, refused, found, figures, shards)
    write_atomic(final / "README.md", dataset_card.text(manifest, plan).encode())
    files = sorted(p for p in final.rglob("*") if p.is_file() and p.name != MARK)
    manifest["files"] = {
        p.relative_to(final).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in files
    }
    write_json(final / MARK, manifest)
    return manifest


def _cut(entries: Sequence[Entry], most: int) -> dict[str, list[str]]:
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
        with parquet(file) as rows:
            for number in sorted(wanted):  # in order of id, as the entries are
                for name, row in _stored(work, number, wanted[number]):
                    entry = by_id[name]
                    rows.write(Row(row, entry.source_id, entry.split), entry.bytes)

    write_atomic(path, write)


def _stored(work: Path, chunk: int, wanted: set[str]) -> Iterator[tuple[str, Any]]:
    path, left = rows_file(work, chunk), set(wanted)
    try:
        for name, row in stored(path, wanted):
            left.discard(name)
            yield name, row
        if left:
            raise ValueError(f"'{min(left)}' is not there")
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: {error}; remove it and give the same command") from None


def _manifest(
    plan: Mapping[str, Any],
    entries: Sequence[Entry],
    refused: Sequence[Mapping[str, Any]],
    found: int,
    figures: Mapping[str, Any],
    shards: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """What is in the dataset; nothing of when, where or by whom it was built, so that two builds are one."""
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
        "rejected": len(refused),
        "rejected_at": figures["stages"],
        "identical_pairs": figures["identical"],
        "source_images": len({entry.source_id for entry in kept}),
        "lookalikes": found,
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
    """Move ``work/final`` into place, the mark last; continues where a kill left it.

    Raises:
        StorageError: no permission, or no space.
    """
    final = work / "final"
    with storage_errors(out):
        for name in ("README.md", REPORT, "data", MARK):
            if (final / name).exists():
                (final / name).replace(out / name)
                sync_folder(out)
    if not (out / MARK).is_file():
        raise StorageError(f"{out}: could not be completed; give the same command again")
