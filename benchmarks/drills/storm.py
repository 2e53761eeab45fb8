"""A run that is killed again and again by the same command's restarts, and the one that nobody touches."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ip2p_lightning.runs import checkpoint
from ip2p_lightning.system.files import TEMPORARY
from tests.support.processes import Process, digest, run
from tests.support.sd_checkpoint import write_sd_checkpoint

LONG = 1800


@dataclass
class Storm:
    """One run that is killed again and again by the same command's restarts.

    Args:
        folder: the run's.
        words: its command line.
        rng: decides when.
    """

    folder: Path
    words: list[str]
    rng: random.Random
    environment: dict[str, str] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)
    seen: bool = False  # whether there ever was a complete checkpoint

    def start(self, *more: str) -> Process:
        """The same command, once more."""
        words = [*self.words, *more, f"hydra.run.dir={self.folder}"]
        return Process(words, self.folder.parent / f"{self.folder.name}.log", self.environment)

    def newest(self) -> int:
        """The step of the newest checkpoint that is complete."""
        intact = [p for p in checkpoint.checkpoints(self.folder) if checkpoint.sidecar(p).exists()]
        return checkpoint.step_of(intact[0]) if intact else 0

    def writing(self, pid: int | str = "*") -> list[Path]:
        """Temporary files of a save that is under way, or was."""
        return list((self.folder / checkpoint.FOLDER).glob(f"{TEMPORARY}{pid}-*.ckpt"))

    def kill(self, process: Process, ready: Callable[[], object], delay: float, kind: str) -> None:
        """SIGKILL to the whole group, `delay` seconds after `ready()`."""
        if not process.until(ready, LONG):
            raise RuntimeError(f"the run ended before it could be killed: {process.said()[-2000:]}")
        time.sleep(delay)
        process.kill_group()
        code = process.wait()
        self.found[f"{kind} kills"] += code == -signal.SIGKILL
        self.found[f"{kind} kills inside a write"] += bool(self.writing())
        self.found["kills"] += code == -signal.SIGKILL
        self.found["ended before the kill came"] += code == 0

    def die(self, fault: str) -> None:
        """A start that kills itself inside a save."""
        code = self.start(f"fault={fault}").wait(LONG)
        self.found["aimed kills"] += code == -signal.SIGKILL
        self.found["aimed kills inside a write"] += bool(self.writing())
        self.found["kills"] += code == -signal.SIGKILL

    def check(self) -> None:
        """After the first complete checkpoint there is always an intact one, and the newest complete one verifies."""
        found = checkpoint.checkpoints(self.folder)
        complete = [p for p in found if checkpoint.sidecar(p).exists()]
        self.found["complete checkpoints that do not verify"] += sum(bool(checkpoint.damage(p)) for p in complete)
        self.seen |= bool(complete)
        self.found["times without an intact checkpoint"] += self.seen and not complete
        self.found["killed between the file and its sidecar"] += len(found) - len(complete)

    def orphans(self) -> None:
        """Called while a later start writes: only its own temporary file may be there."""
        self.found["temporaries left after a restart"] += max(0, len(self.writing()) - 1)

    def finish(self) -> int:
        """Let it run to its end."""
        return self.start().wait(LONG)


def undisturbed(folder: Path, words: list[str]) -> tuple[str, float]:
    """Digest and seconds of the run that nobody kills."""
    started = time.perf_counter()
    code, said = run([*words, f"hydra.run.dir={folder}"], folder.parent / f"{folder.name}.log", LONG)
    if code:
        raise RuntimeError(said)
    return digest(folder), time.perf_counter() - started


def recipe(work: Path, steps: int) -> list[str]:
    """A tiny SD checkpoint on four tasks: workers, accumulation, flips, dropout of the conditions, EMA, mixture."""
    folder = write_sd_checkpoint(work / "sd")
    words = ["model=local", f"model.path={folder}", "loader.size=64", "loader.resize=null", "loader.batch_size=2"]
    words += [
        "loader.workers=2",
        "callbacks=[default,sample_log]",
        "trainer.accumulate_grad_batches=4",
        "model.drop=0.05",
        "model.ema=0.99",
    ]
    return [*words, f"trainer.max_steps={steps}", "val_every=0", "save_every=10", "log_every=1", "optimizer.lr=1e-4"]


def trains(process: Process) -> bool:
    """Whether it has begun to train: its bar stands."""
    return "step/s" in process.said()


def losses(folder: Path) -> dict[int, list[float]]:
    """Every training loss that was logged, by step."""
    found: dict[int, list[float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        if "train/loss" in entry:
            found.setdefault(entry["step"], []).append(entry["train/loss"])
    return found


def samples(folder: Path) -> tuple[dict[int, dict[str, object]], int]:
    """What each micro-step saw, by its number, and how many were done again with other samples."""
    found: dict[int, dict[str, object]] = {}
    different = 0
    for line in (folder / "samples.jsonl").read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        different += found.setdefault(entry["micro_step"], entry) != entry
    return found, different
