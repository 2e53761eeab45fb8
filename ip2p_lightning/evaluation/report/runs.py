"""A run's folder, summarised for a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ip2p_lightning.config.overrides import Scalar, hyperparameters
from ip2p_lightning.errors import UserError
from ip2p_lightning.evaluation import scores_file
from ip2p_lightning.runs.folder import CONFIG, LOCK, STATUS, read_config, read_status
from ip2p_lightning.runs.metrics_log import read_metrics
from ip2p_lightning.system.locks import is_held

LOG = "log.txt"  # where a launcher keeps what a job printed


@dataclass(frozen=True)
class Score:
    """Mean scores of a method on a task; `n` is 0 where the number of images is not known."""

    method: str
    task: str
    split: str
    prompts: str
    psnr: float
    ssim: float
    n: int


@dataclass(frozen=True)
class RunSummary:
    """A run.

    Args:
        name: its folder, from the folder the report was asked for.
        state: complete, running, preempted, failed, pruned; killed or not started where it could not say so itself.
        reason: why it is not complete.
        images, seconds: seen and taken in training, validation included; None where the log does not tell.
        memory: peak, in MB.
    """

    name: str
    state: str
    reason: str
    config: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    images: int | None = None
    seconds: float | None = None
    memory: float | None = None

    @property
    def seed(self) -> Any:
        return self.config.get("seed", "")

    @property
    def hyperparameters(self) -> dict[str, Scalar]:
        """What its command line changed, but for the seed."""
        return {key: value for key, value in hyperparameters(self.status).items() if key != "seed"}


def collect(roots: Sequence[Path]) -> list[RunSummary]:
    """All runs in and below `roots`, by name.

    Raises:
        UserError: a root does not exist, or holds no run.
        DamagedError: a config or a table of scores does not read.
    """
    found: dict[Path, RunSummary] = {}
    for root in roots:
        folders = list(_folders(root))
        if not folders:
            raise UserError(f"{root}: no runs in it; give a run's folder, or one that holds runs, such as runs/demo")
        for folder in folders:
            found.setdefault(folder.resolve(), _read(folder, _name(folder, root, len(roots) > 1)))
    return sorted(found.values(), key=lambda run: run.name)


def _folders(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        raise UserError(f"{root} is no folder; give a run's folder, or one that holds runs")
    for path in root.rglob(STATUS):
        if (path.parent / CONFIG).is_file():
            yield path.parent
    for path in root.rglob(LOG):  # a job that ended before it could claim its folder left its log only
        if not (path.parent / STATUS).exists():
            yield path.parent


def _name(folder: Path, root: Path, several: bool) -> str:
    if folder == root:
        return root.resolve().name
    inside = folder.relative_to(root).as_posix()
    return f"{root.resolve().name}/{inside}" if several else inside


def _read(folder: Path, name: str) -> RunSummary:
    status = read_status(folder)
    if not (folder / CONFIG).is_file():
        return RunSummary(name, "not started", _last_error(folder / LOG))
    state = str(status.get("state", "not started"))
    if state == "running" and not is_held(folder / LOCK):
        state, status = "killed", status | {"reason": _last_error(folder / LOG) or "ended without a word"}
    config, lines = read_config(folder), _metrics(folder)
    table = scores_file.read(folder / "scores.csv")
    found = tuple(_as_score(row) for row in table) if table else tuple(_validation(lines))
    images, seconds = _cost(lines, config)
    memory = max((line["train/peak_memory_mb"] for line in lines if "train/peak_memory_mb" in line), default=None)
    reason = "" if state == "complete" else str(status.get("reason") or "")
    return RunSummary(name, state, reason, config, status, found, images, seconds, memory)


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    lines = [line for line in lines if line]
    return ([line for line in lines if line.startswith("error:")] or lines or [""])[-1].removeprefix("error: ")[:300]


def _metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log by step; what a resumed run repeated counts once."""
    found = {(line["step"], "train/loss" in line): line for line in read_metrics(folder)}
    return sorted(found.values(), key=lambda line: line["step"])


def _as_score(row: Mapping[str, str]) -> Score:
    numbers = float(row["psnr"]), float(row["ssim"]), int(row["n"])
    return Score(row["method"], row["task"], row["split"], row["prompts"], *numbers)


def _validation(lines: Sequence[Mapping[str, Any]]) -> Iterator[Score]:
    """The last validation, for a run that was not evaluated."""
    last = next((line for line in reversed(lines) if "val/psnr" in line), {})
    for key in last:
        if key.startswith("val/psnr/"):
            task = key.removeprefix("val/psnr/")
            for method, ending in (("model", ""), ("identity", "_identity")):
                values = (last.get(f"val/{name}{ending}/{task}", float("nan")) for name in ("psnr", "ssim"))
                yield Score(method, task, "val", "seen", *values, n=0)


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
