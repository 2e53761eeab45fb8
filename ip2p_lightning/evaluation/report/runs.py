"""A run's folder, summarised for a report."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ip2p_lightning.config.overrides import Scalar, hyperparameters
from ip2p_lightning.errors import UserError
from ip2p_lightning.evaluation import score_table
from ip2p_lightning.runs.folder import CONFIG, LOCK, LOG, STATUS, last_line, read_config, read_status
from ip2p_lightning.runs.metrics_log import read_metrics
from ip2p_lightning.system.locks import is_held


@dataclass(frozen=True)
class Score:
    """Mean scores of a method on a task; `n` is 0 if the number of images is not known."""

    method: str
    task: str
    split: str
    prompts: str
    psnr: float
    ssim: float
    n: int
    scored_step: int
    weights: str


@dataclass(frozen=True)
class RunSummary:
    """A run's state, scores and costs; a cost is None if the log does not have it."""

    name: str  # its folder, relative to the root of the report
    state: str  # complete, running, preempted, failed, pruned, killed or not started
    reason: str  # why it is not complete
    config: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    images: int | None = None  # seen in training
    seconds: float | None = None  # of training, validation included
    memory: float | None = None  # peak, MB

    @property
    def seed(self) -> Any:
        return self.config.get("seed", "")

    @property
    def hyperparameters(self) -> dict[str, Scalar]:
        """The overrides of its command line, without the seed."""
        return {key: value for key, value in hyperparameters(self.status).items() if key != "seed"}


def collect(roots: Sequence[Path]) -> list[RunSummary]:
    """All runs in and below `roots`, by name. Raises UserError for a root without runs, DamagedError for damage."""
    found: dict[Path, RunSummary] = {}
    for root in roots:
        folders = list(_folders(root))
        if not folders:
            raise UserError(f"{root}: no runs in it; give a run's folder, or one that contains runs, such as runs/demo")
        for folder in folders:
            found.setdefault(folder.resolve(), _read(folder, _name(folder, roots)))
    return sorted(found.values(), key=lambda run: run.name)


def _folders(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give a run's folder, or one that contains runs")
    for path in root.rglob(STATUS):
        if (path.parent / CONFIG).is_file():
            yield path.parent
    for path in root.rglob(LOG):  # a job that ended before it created its run has only a log
        if not (path.parent / STATUS).exists():
            yield path.parent


def _name(folder: Path, roots: Sequence[Path]) -> str:
    """A run's path from what all roots have in common, so that no two runs have one name."""
    common = Path(os.path.commonpath([root.resolve() for root in roots]))
    inside = folder.resolve()
    return inside.name if inside == common else inside.relative_to(common).as_posix()


def _read(folder: Path, name: str) -> RunSummary:
    status = read_status(folder)
    if not (folder / CONFIG).is_file():
        return RunSummary(name, "not started", _last_error(folder / LOG))
    state = str(status.get("state", "not started"))
    if state == "running" and not is_held(folder / LOCK):
        state, status = "killed", status | {"reason": _last_error(folder / LOG) or "no reason was recorded"}
    config, lines = read_config(folder), _metrics(folder)
    table = score_table.current(score_table.read(folder / "scores.csv"))
    found = tuple(_score(row) for row in table) or tuple(_validation(lines))
    wrong = sorted({score.task for score in found if not (math.isfinite(score.psnr) and math.isfinite(score.ssim))})
    if wrong and state == "complete":  # one would make the mean of its configuration nan
        state, status = "not a number", status | {"reason": f"scores of {', '.join(wrong)} are not finite"}
    images, seconds = _cost(lines, config)
    memory = max((line["train/peak_memory_mb"] for line in lines if "train/peak_memory_mb" in line), default=None)
    reason = "" if state == "complete" else str(status.get("reason") or "")
    return RunSummary(name, state, reason, config, status, found, images, seconds, memory)


def _last_error(log: Path) -> str:
    return last_line(log.read_text(errors="replace")).removeprefix("error: ") if log.exists() else ""


def _metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log by step; steps that a resumed run repeated count once."""
    found = {(line["step"], "train/loss" in line): line for line in read_metrics(folder)}
    return sorted(found.values(), key=lambda line: line["step"])


def _score(row: Mapping[str, str]) -> Score:
    psnr, ssim, n = float(row["psnr"]), float(row["ssim"]), int(row["n"])
    what = (row["method"], row["task"], row["split"], row["prompts"])
    return Score(*what, psnr, ssim, n, int(row["step"]), row["weights"])


def _validation(lines: Sequence[Mapping[str, Any]]) -> Iterator[Score]:
    """The last validation, for a run that was not evaluated."""
    last: Mapping[str, Any] = next((line for line in reversed(lines) if "val/psnr" in line), {})
    for key in last:
        if key.startswith("val/psnr/"):
            task = key.removeprefix("val/psnr/")
            for method, ending in (("model", ""), ("identity", "_identity")):
                psnr, ssim = (last.get(f"val/{name}{ending}/{task}", float("nan")) for name in ("psnr", "ssim"))
                yield Score(method, task, "val", "seen", psnr, ssim, 0, int(last["step"]), "")


def _cost(lines: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """Images and seconds of training, from the speed of each stretch of the log."""
    trainer, windows = config.get("trainer", {}), [line for line in lines if line.get("train/images_per_s", 0) > 0]
    devices = trainer.get("devices", 1)
    processes = len(devices) if isinstance(devices, list) else devices
    if not windows or not isinstance(processes, int):
        return None, None
    batch = config["loader"]["batch_size"] * trainer.get("accumulate_grad_batches", 1) * max(1, processes)
    steps = [0, *(line["step"] for line in windows)]
    counts = [(b - a) * batch for a, b in pairwise(steps)]
    return sum(counts), sum(n / line["train/images_per_s"] for n, line in zip(counts, windows, strict=True))
