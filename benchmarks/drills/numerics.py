"""Drills 19 to 22: numbers that are not finite, half precision, the average."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from benchmarks.drills.stops import _own, _pairs
from benchmarks.drills.storm import LONG, Storm, losses, recipe, undisturbed
from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_status
from tests.support.processes import run

Outcome = dict[str, object]


def _weights(path: Path) -> dict[str, torch.Tensor]:
    content = checkpoint.load(path)
    return {**content["state_dict"], **{f"ema.{k}": v for k, v in content["ema"]["weights"].items()}}


def _finite(folder: Path) -> bool:
    paths = checkpoint.checkpoints(folder)
    return all(bool(torch.isfinite(w).all()) for path in paths for w in _weights(path).values())


def nan(work: Path, seed: int) -> Outcome:
    """Drill 19: the loss of step 50 is NaN, and none may be skipped."""
    words = [*recipe(work, 200), "max_skips=0"]
    storm = Storm(work / "run", words, random.Random(seed))
    code = storm.start("fault=nan@step=50").wait(LONG)
    status = read_status(storm.folder)
    newest = checkpoint.checkpoints(storm.folder)[0]
    return {
        "exit code": code,
        "reason": status["reason"],
        "newest checkpoint": newest.name,
        "all checkpoints finite and intact": _finite(storm.folder) and not checkpoint.damage(newest),
        "steps logged": max(losses(storm.folder)),
        "the same command without the fault: exit code": storm.finish(),
    }


def not_finite(work: Path, seed: int) -> Outcome:
    """Drill 20: an infinite gradient, poisoned latents, lr=1e6; and exactly three skips."""
    words = recipe(work, 60)
    attempts = {
        "infinite gradient": [*words, "max_skips=0", "fault=inf@step=7"],
        "poisoned latents in the cache": [*_poisoned(work), "max_skips=0"],
        "optimizer.lr=1e6": [*words, "optimizer.lr=1e6", "max_skips=0", "trainer.max_steps=400"],
        "max_skips=3": [*words, "max_skips=3", "fault=" + ";".join(f"nan@step={n}" for n in (5, 9, 14, 20, 30))],
    }
    found: Outcome = {}
    for number, (name, more) in enumerate(attempts.items()):
        folder = work / f"run{number}"
        code, said = run([*more, f"hydra.run.dir={folder}"], work / f"{number}.log", LONG)
        error = said.strip().splitlines()[-1].removeprefix("error: ")[:150]
        found[name] = f"exit code {code}, checkpoints finite: {_finite(folder)}: {error}"
    return found


def _poisoned(work: Path) -> list[str]:
    """A run on pairs of which one has NaN in the cache, with a checksum that fits."""
    words = [*recipe(work, 60), *_own(_pairs(work / "pairs")), "cache=disk", f"cache_dir={work}/cache", "task.flip=0"]
    words += ["loader.crop=center"]
    undisturbed(work / "filling", words)
    space = Space.opened(next((work / "cache").glob("*/space.json")).parent)
    key = sorted(space.index.keys())[0]
    space.put([(key, np.full(space.payload // 4, np.nan, np.float32).tobytes())])
    return words


def precision(work: Path, seed: int) -> Outcome:
    """Drill 21: 200 steps in float32 and in bf16-mixed, the same draws."""
    words = ["model=tiny", "loader.size=32", "loader.resize=null", "loader.batch_size=4", "trainer.max_steps=200"]
    words += ["val_every=0", "log_every=1"]
    found = {}
    for kind in ("32-true", "bf16-mixed"):
        undisturbed(work / kind, [*words, f"trainer.precision={kind}"])
        found[kind] = np.array([v[0] for _, v in sorted(losses(work / kind).items())])
    full, half = found.values()
    return {
        "mean loss of steps 1 to 200": [round(float(x.mean()), 4) for x in (full, half)],
        "mean loss of the last 50": [round(float(x[-50:].mean()), 4) for x in (full, half)],
        "they differ by, %": round(100 * abs(half[-50:].mean() / full[-50:].mean() - 1), 3),
        "one step differs by at most, %": round(100 * float(np.abs(half / full - 1).max()), 3),
    }


def average(work: Path, seed: int, steps: int = 50, decay: float = 0.99) -> Outcome:
    """Drill 22: the averaged weights of 50 steps, recomputed in float64 from the raw ones."""
    words = [*recipe(work, steps), "save_every=1", "keep=99", f"model.ema={decay}", "optimizer.lr=1e-3"]
    undisturbed(work / "run", words)
    mean: dict[str, torch.Tensor] = {}
    worst, moved = 0.0, 0.0
    for number, path in enumerate(reversed(checkpoint.checkpoints(work / "run"))):
        content = checkpoint.load(path)
        rate = 1 - min(decay, (1 + number) / (10 + number)) if number else 1.0  # the first step is taken whole
        for name, averaged in content["ema"]["weights"].items():
            raw = content["state_dict"][name].double()
            mean[name] = raw.clone() if number == 0 else mean[name] + rate * (raw - mean[name])
            worst = max(worst, float((mean[name] - averaged.double()).abs().max()))
            moved = max(moved, float((raw - averaged.double()).abs().max()))
    return {
        "checkpoints": number + 1,
        "largest difference from the recomputed average": f"{worst:.1e}",
        "largest difference between raw and averaged weights": f"{moved:.1e}",
    }
