"""``report.jsonl``: a line for every candidate, accepted or rejected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.curation.audit.splits import Entry
from ip2p_lightning.curation.shards.chunks import reports
from ip2p_lightning.system.files import write_atomic

REPORT = "report.jsonl"
_PRIVATE = ("id", "task", "_", "chunk")


def write_report(path: Path, work: Path, plan: Mapping[str, Any], by_id: Mapping[str, Entry]) -> dict[str, Any]:
    """One line per candidate; returns the counts for the card."""
    sizes, tokens, stages, identical = Counter[str](), Counter[int](), Counter[str](), 0

    def write(file: Any) -> None:
        nonlocal identical
        for line in (*plan["rejected"], *reports(work, plan["chunks"])):
            entry = _report_line(line, by_id)
            if entry["verdict"] == "accepted":
                sizes[f"{entry['width']}x{entry['height']}"] += 1
                tokens[entry["tokens"]] += 1
                identical += entry["psnr"] is None
            else:
                stages[entry["stage"]] += 1
            file.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())

    write_atomic(path, write)
    return {"sizes": sizes, "tokens": tokens, "stages": dict(sorted(stages.items())), "identical": identical}


def _report_line(line: Mapping[str, Any], by_id: Mapping[str, Entry]) -> dict[str, Any]:
    """The report's line of a candidate, from its chunk's line and its assigned split."""
    head = {"id": line["id"], "task": line["task"]}
    if "stage" in line:
        return head | {"verdict": "rejected", **{key: line[key] for key in ("path", "stage", "reason")}}
    entry = by_id.get(line["id"])
    if entry is not None and not entry.split:
        return head | {"verdict": "rejected", "path": line["id"], "stage": "leakage", "reason": entry.reason}
    facts = {key: value for key, value in line.items() if key not in _PRIVATE}
    where = {"split": entry.split, "source_id": entry.source_id} if entry else {}
    return head | {"verdict": "accepted"} | where | facts
