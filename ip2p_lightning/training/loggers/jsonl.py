"""Metrics as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from ip2p_lightning.system.files import append_line


class JsonLines(Logger):
    """One JSON object a line, appended: readable while the run goes on, whatever happens to TensorBoard's file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = Path(path)

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        append_line(self.path, {"step": step, **{k: float(v) for k, v in metrics.items() if k != "epoch"}})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config lies beside the metrics already."""
