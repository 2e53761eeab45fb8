"""A contact sheet of pairs per task, and a summary of the dataset."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ip2p_lightning.curation.audit.policy import Audit, decoded
from ip2p_lightning.curation.shards.parquet import IMAGES
from ip2p_lightning.data.contact_sheet import contact_sheet
from ip2p_lightning.data.sources.built import read_metadata
from ip2p_lightning.errors import DamagedError
from ip2p_lightning.system.files import storage_errors, write_atomic

GAIN = 2  # of the difference image: a difference of 32 of 255 is clearly visible


def show(folder: Path, out: Path, pairs: int) -> str:
    """Write ``TASK.png`` for every task to `out`; returns a summary of the dataset.

    Raises UserError, DamagedError: `folder` holds no finished dataset, or it cannot be read; StorageError: `out`.
    """
    metadata, lines = read_metadata(folder), _accepted(folder)
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for task in metadata["tasks"]:
        write_atomic(out / f"{task}.png", _sheet(folder, task, [x for x in lines if x["task"] == task], pairs))
    return _summary(metadata)


def _accepted(folder: Path) -> list[dict[str, Any]]:
    """The report's lines of the accepted pairs."""
    try:
        with (folder / "report.jsonl").open(encoding="utf-8") as file:
            return [line for line in map(json.loads, file) if line["verdict"] == "accepted"]
    except (OSError, ValueError, KeyError) as error:
        raise DamagedError(f"{folder / 'report.jsonl'}: {error}; copy or build the dataset again") from None


def _sheet(folder: Path, task: str, lines: Sequence[Mapping[str, Any]], count: int) -> bytes:
    """Pairs spread evenly over the task, with their difference images."""
    chosen = [lines[round(i)] for i in np.linspace(0, len(lines) - 1, min(count, len(lines)))]
    wanted = pq.read_table(folder / "data", filters=[("id", "in", [line["id"] for line in chosen])])
    found = {row["id"]: row for row in wanted.to_pylist()}
    rows, captions = [], []
    for line in chosen:
        row = found[line["id"]]
        before, after = (decoded(row[name]["bytes"], Audit(pixels=10**9)).pixels for name in IMAGES)
        difference = np.clip(GAIN * np.abs(before.astype(np.int16) - after), 0, 255).astype(np.uint8)
        rows.append((row["edit_prompt"], [before, after, difference]))
        score = "identical" if line["psnr"] is None else f"{line['psnr']:.1f} dB"
        captions.append([f"{line['width']} x {line['height']}, {line['split']}", score, ""])
    columns = ["original", "edited", f"difference x {GAIN}"]
    out = io.BytesIO()
    title = f"{task}: {len(lines):,} pairs"
    contact_sheet(columns, rows, cell=256, title=title, captions=captions).save(out, "PNG")
    return out.getvalue()


def _summary(metadata: Mapping[str, Any]) -> str:
    tokens = metadata["tokens"]
    named = {key: ", ".join(f"{n} {count:,}" for n, count in metadata[key].items()) for key in ("tasks", "splits")}
    stages = ", ".join(f"{count:,} at stage {stage}" for stage, count in metadata["rejected_at"].items())
    facts = {
        "pairs": f"{metadata['accepted']:,}, made from {metadata['source_images']:,} source images",
        **named,
        "rejected": f"{stages} (see report.jsonl)" if stages else "none",
        "identical pairs": f"{metadata['identical_pairs']:,}",
        "prompts cut off": f"{tokens['prompts_cut_off']:,} beyond {tokens['most']} tokens ({tokens['counted']})",
    }
    return "\n".join(f"{key}: {value}" for key, value in facts.items())
