"""What tests do to a run in small and the drills at full size: kill it, stop it, start it again, compare the ends."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.runs.metrics_log import read_metrics
from ip2p_lightning.system.files import TEMPORARY
from tests.support.processes import Process, digest, run

LONG = 1800  # seconds after which a process of a drill counts as hanging
Outcome = dict[str, object]


@dataclass
class Victim:
    """One run, started again and again by the same command line `words`."""

    folder: Path
    words: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *more: str) -> Process:
        """The same command, once more."""
        words = [*self.words, *more, f"hydra.run.dir={self.folder}"]
        return Process(words, self.folder.parent / f"{self.folder.name}.log", self.environment)

    def go(self, *more: str) -> int:
        """Let it run to its end; the exit code."""
        return self.start(*more).wait(LONG)

    def damaged(self) -> int:
        """How many of its checkpoints do not verify."""
        return sum(bool(checkpoint.damage(path)) for path in checkpoint.checkpoints(self.folder))

    def writing(self, pid: int | str = "*") -> list[Path]:
        """Temporary files of a save that is under way, or was."""
        return list((self.folder / checkpoint.FOLDER).glob(f"{TEMPORARY}{pid}-*.ckpt"))


def survived(victim: Victim, wanted: str, *starts: Sequence[str]) -> Outcome:
    """How a run goes through these starts, the last of which should end it, and whether it is then as `wanted`."""
    ends = [f"{victim.go(*more)} {read_status(victim.folder)['state']}" for more in starts]
    equal = digest(victim.folder) == wanted
    return {"ends": ends, "damaged": victim.damaged(), "left over": len(victim.writing()), "digest equal": equal}


def undisturbed(folder: Path, words: Sequence[str]) -> str:
    """Digest of the run that nothing happens to."""
    code, said = run([*words, f"hydra.run.dir={folder}"], folder.parent / f"{folder.name}.log", LONG)
    if code:
        raise RuntimeError(said)
    return digest(folder)


def trains(process: Process) -> bool:
    """Whether it has begun to train: its bar stands."""
    return "step/s" in process.said()


def losses(folder: Path) -> dict[int, list[float]]:
    """Every training loss that was logged, by step; {} before the first."""
    found: dict[int, list[float]] = {}
    for entry in read_metrics(folder):
        if "train/loss" in entry:
            found.setdefault(entry["step"], []).append(entry["train/loss"])
    return found


def samples(folder: Path) -> tuple[dict[int, dict], int]:
    """What each micro-step saw, by its number, and how many were done again with other samples."""
    found: dict[int, dict] = {}
    different = 0
    for line in (folder / "samples.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):  # a kill has cut the line
            entry = json.loads(line)
            different += found.setdefault(entry["micro_step"], entry) != entry
    return dict(sorted(found.items())), different


def samples_told(folder: Path, whole: Path, micro_steps: int) -> Outcome:
    """What a run saw against the undisturbed one, in epochs of 24 pairs: six photos in each of four tasks."""
    (found, different), (wanted, _) = samples(folder), samples(whole)
    seen = [pair for line in found.values() for pair in zip(line["tasks"], line["ids"], strict=True)]
    epochs = [Counter(seen[start : start + 24]) for start in range(0, len(seen) // 24 * 24, 24)]
    everyone = set(seen)
    return {
        "micro-steps missing from samples.jsonl": micro_steps - len(found),
        "micro-steps done again with other samples": different,
        "samples.jsonl, each micro-step once, equal to the undisturbed run's": found == wanted,
        "epochs": f"{len(epochs)} of {len(everyone)} pairs, and {len(seen) % 24} samples of the next",
        "pairs missing in an epoch": sum(len(everyone - epoch.keys()) for epoch in epochs),
        "pairs twice in an epoch": sum(count - 1 for epoch in epochs for count in epoch.values()),
    }


def average_error(folder: Path, decay: float) -> tuple[float, float, int]:
    """How far a run's averages lie from the definition, and from the raw weights; and of how many checkpoints.

    s <- s + (1 - d) (p - s) in float64, from the raw weights of every step; d = min(decay, (1 + n) / (10 + n)) after n
    averaged steps, and 0 for the first, as diffusers' EMAModel has it.
    """
    mean: dict[str, torch.Tensor] = {}
    worst, moved = 0.0, 0.0
    contents = [checkpoint.load(path) for path in reversed(checkpoint.checkpoints(folder))]
    averaged = [content for content in contents if content["ema"]["step"]]  # before the first there is none
    for number, content in enumerate(averaged):
        assert content["ema"]["step"] == number + 1
        rate = 1 - min(decay, (1 + number) / (10 + number)) if number else 1.0
        for name, average in content["ema"]["weights"].items():
            raw = content["state_dict"][name].double()
            mean[name] = mean[name] + rate * (raw - mean[name]) if number else raw
            worst = max(worst, float((mean[name] - average.double()).abs().max()))
            moved = max(moved, float((raw - average.double()).abs().max()))
    return worst, moved, len(averaged)
