"""Reading a run's ``metrics.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ip2p_lightning.runs.folder import METRICS


def final_score(folder: Path, metric: str = "val/psnr") -> float | None:
    """The last value of a metric in ``metrics.jsonl`` (the last validation's mean PSNR), None without one."""
    return last_metrics(folder).get(metric)


def last_metrics(folder: Path) -> dict[str, Any]:
    """The last value of each key in ``metrics.jsonl``, {} where there is none yet."""
    last: dict[str, Any] = {}
    if (Path(folder) / METRICS).exists():
        for line in (Path(folder) / METRICS).read_text().splitlines():
            try:
                last |= json.loads(line)
            except ValueError:  # the last line of a killed run may be cut
                continue
    return last


def has_scores(metrics: Path, step: int) -> bool:
    """Whether a run's log holds the scores of a step; a line that a kill has cut does not count."""
    return any(
        line.get("step") == step and any(key.startswith("val/") for key in line)
        for line in map(_parsed, metrics.read_text().splitlines() if metrics.exists() else ())
    )


def _parsed(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}
