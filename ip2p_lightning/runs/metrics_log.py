"""Reading a run's ``metrics.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ip2p_lightning.runs.folder import METRICS


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's log, without those that a kill has cut short."""
    path = Path(folder) / METRICS
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            yield line


def last_metrics(folder: Path) -> dict[str, Any]:
    """The last value of each key."""
    return {key: value for line in read_metrics(folder) for key, value in line.items()}


def final_score(folder: Path, metric: str = "val/psnr") -> float | None:
    """The last value of a metric (by default the last validation's mean PSNR), None without one."""
    return last_metrics(folder).get(metric)


def has_scores(folder: Path, step: int) -> bool:
    """Whether the log holds the validation scores of a step."""
    return any(line["step"] == step and any(key.startswith("val/") for key in line) for line in read_metrics(folder))
