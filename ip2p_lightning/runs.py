"""A run is a folder: config, status, metrics, checkpoints, TensorBoard's file, pictures."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ip2p_lightning.checkpoint import checkpoints, load, newest_intact, step_of
from ip2p_lightning.config.build import build_module
from ip2p_lightning.config.compose import differences
from ip2p_lightning.config.overrides import FREE_KEYS
from ip2p_lightning.config.train_config import TrainConfig
from ip2p_lightning.config.validate import check
from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.system.checksums import beginnings, read_sealed, write_sealed
from ip2p_lightning.system.files import storage_errors

CONFIG, STATUS, METRICS, LOCK = "config.json", "status.json", "metrics.jsonl", ".lock"
WRITTEN = (METRICS, "samples*.jsonl", "events.out.tfevents*", "samples/*.png")  # grow, but never change


@dataclass
class RunFolder:
    """A run's folder, held by this process.

    Args:
        path: the folder.
        lock: open handle whose lock ends with the process, however it ends.
    """

    path: Path
    lock: Any = field(default=None, repr=False)

    def write_status(self, state: str, **more: Any) -> None:
        """Replace ``status.json``: state is running, preempted, pruned, failed or complete.

        A run that ends records the sha256 of what it wrote so far (``files``), for ``ip2p-inspect verify``.
        """
        status = read_status(self.path)
        if state != "running":
            more["files"] = beginnings(self.path, WRITTEN)
        status.update(
            state=state, pid=os.getpid(), host=platform.node(), updated=time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more
        )
        write_sealed(self.path / STATUS, status)


def read_status(folder: Path) -> dict[str, Any]:
    """A run's status, {} where there is none yet."""
    try:
        return read_sealed(Path(folder) / STATUS)
    except FileNotFoundError:
        return {}
    except DamagedError:
        return {"state": "failed", "reason": f"{STATUS} is not readable"}


def note(folder: Path, **more: Any) -> None:
    """Add to ``status.json`` without a say in the run's state."""
    write_sealed(Path(folder) / STATUS, read_status(folder) | more)


def claim(folder: Path) -> RunFolder:
    """Hold `folder` for this process; where a live process holds it, a sibling ``folder@2``, ``@3``, ...

    Raises:
        StorageError: the folder cannot be written.
    """
    for number in range(1, 1000):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}@{number}")
        with storage_errors(candidate):
            candidate.mkdir(parents=True, exist_ok=True)
            lock = (candidate / LOCK).open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        # a loader's worker that outlives us must not hold the folder; weak, or this process would hold it for ever
        os.register_at_fork(after_in_child=_closing(weakref.ref(lock)))
        return RunFolder(candidate, lock)
    raise UserError(f"{folder}: a thousand live runs hold it and its siblings; end some of them")


def _closing(held: Any) -> Any:
    """What closes a weakly held file, if it is still there."""

    def close() -> None:
        file = held()
        if file is not None:
            file.close()

    return close


def adopt(run: RunFolder, config: Mapping[str, Any], resume: str, allow: list[str]) -> str | None:
    """Make the folder this config's, or continue what it holds.

    Returns:
        The checkpoint to continue from, None for a fresh start.

    Raises:
        UserError: the folder holds a run whose config differs; the line names each key, old and new.
    """
    stored = run.path / CONFIG
    if stored.exists():
        old = read_config(run.path)
        if checkpoints(run.path) or (run.path / METRICS).exists():  # a start that failed at once may be mended
            _refuse_changes(old, config, run.path, allow)
        newest = newest_intact(run.path)
        if newest is not None and resume == "never":
            raise UserError(
                f"{run.path} already holds {newest.name}; resume=auto continues it, or choose another hydra.run.dir"
            )
        if newest is not None:
            if old != config:  # what was allowed to change is recorded, and is what the ranks of a group read
                write_sealed(stored, config)
            return str(newest)
    write_sealed(stored, config)
    return None


def is_complete(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the run in `folder` has taken all the steps that `config` asks for."""
    status = read_status(folder)
    return status.get("state") == "complete" and status.get("step", 0) >= config["trainer"]["max_steps"]


def free_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], allow: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """What differs between two configs, but for keys that are free to: key to (old, new)."""
    free, changed = (*FREE_KEYS, *allow), differences(old, new)
    named = {key for key in changed if any(key == n or key.startswith((f"{n}.", f"{n}[")) for n in free)}
    # loader.workers shows in task.loader.workers and data.root in task.source.root: one change, one name
    twins = {(key.rpartition(".")[2], repr(changed[key])) for key in named}
    left = {k: v for k, v in changed.items() if k not in named and (k.rpartition(".")[2], repr(v)) not in twins}
    own = {(k.rpartition(".")[2], repr(v)) for k, v in left.items() if not k.startswith("task.")}
    return {k: v for k, v in left.items() if not k.startswith("task.") or (k.rpartition(".")[2], repr(v)) not in own}


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


def _refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path, allow: list[str]) -> None:
    changed = free_differences(old, new, allow)
    if changed:
        told = "; ".join(f"{key}: {a} -> {b}" for key, (a, b) in list(changed.items())[:8])
        keys = ",".join(changed)
        raise UserError(
            f"{folder} holds a run with another config: {told}; allow it with 'resume_allow=[{keys}]' or choose "
            "another hydra.run.dir"
        )


def read_config(folder: Path, limit: int = 4_000_000) -> dict[str, Any]:
    """A run's config: plain JSON of at most `limit` bytes, so nothing in it can run or swell.

    Raises:
        UserError: not a run.
        DamagedError: the config does not read.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not a run: it has no {CONFIG}; give the folder that ip2p-train printed")
    if path.stat().st_size > limit:
        raise DamagedError(f"{path} has {path.stat().st_size} bytes, more than {limit}")
    return read_sealed(path)


@dataclass
class Run:
    """A trained run, opened: its config, its model with the asked weights, the step they are from."""

    folder: Path
    config: dict[str, Any]
    module: Any
    step: int
    weights: str


def open_run(folder: str | Path, weights: str = "ema", merged: bool = True) -> Run:
    """Rebuild a run's model from its config and its newest intact checkpoint.

    Args:
        folder: the run's folder.
        weights: ``ema`` (the averaged ones) or ``raw``.
        merged: add low-rank adapters to the weights they stand beside; the model is then a plain one.

    Raises:
        UserError: not a run, no checkpoint yet, or no averaged weights in it.
        DamagedError, SecurityError: see `checkpoint.load`.
    """
    folder = Path(folder)
    config = read_config(folder)
    check(config, TrainConfig)
    path = newest_intact(folder)
    if path is None:
        raise UserError(f"{folder} has no checkpoint yet; continue it with the command in its {STATUS}")
    content = load(path)
    module = build_module(config)
    whole = module.completed(content)
    if weights == "ema":
        whole |= _average(content, folder)
    module.load_state_dict(whole)
    if merged and getattr(module.unet, "lora", None):
        module.unet.lora.merge(module.unet)
    return Run(folder, config, module.eval(), step_of(path), weights)


def _average(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if "ema" not in content:
        raise UserError(f"{folder} was trained without averaged weights (model.ema=null); ask for weights=raw")
    return content["ema"]["weights"] if content["ema"]["step"] > 0 else {}


def commit() -> str | None:
    """The git commit of the code, with ``+`` where the tree is changed; None outside a checkout."""
    try:
        here = Path(__file__).parent
        git = ["git", "-C", str(here)]
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
        return (name.stdout.strip() + ("+" if dirty.stdout.strip() else "")) if name.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        return None


def command() -> str:
    """The command line of this process, as one would type it."""
    import shlex

    program = Path(sys.argv[0])
    name = program.name if program.suffix != ".py" else f"python -m {program.parent.name}.{program.stem}"
    return shlex.join([*name.split(), *sys.argv[1:]])
