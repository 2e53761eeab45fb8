"""Drills of single runs: kill -9 at random and inside saves, stops, memory of a save, half precision, averages."""

import contextlib
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from ip2p_lightning.runs import checkpoint
from tests.support.drilling import (
    LONG,
    Outcome,
    Victim,
    average_error,
    losses,
    samples_told,
    survived,
    trains,
    undisturbed,
)
from tests.support.processes import Process
from tests.support.sd_checkpoint import write_sd_checkpoint


def recipe(work: Path, steps: int, save_every: int = 10) -> list[str]:
    """A tiny SD checkpoint on four tasks: workers, accumulation, flips, dropout of the conditions, EMA, mixture."""
    words = ["model=local", f"model.path={write_sd_checkpoint(work / 'sd')}", "loader.size=64", "loader.resize=null"]
    words += ["loader.batch_size=2", "loader.workers=2", "trainer.accumulate_grad_batches=4", "model.drop=0.05"]
    words += [
        "model.ema=0.99",
        "callbacks=[default,sample_log]",
        f"trainer.max_steps={steps}",
        f"save_every={save_every}",
    ]
    return [*words, "val_every=0", "log_every=1", "optimizer.lr=1e-4"]


ONE = ["model=tiny", "task=denoise", "loader.size=16", "loader.resize=null", "loader.batch_size=1", "val_every=0"]
ONE += ["log_every=1", "save_every=1"]


class Storm(Victim):
    """A run that is killed at random, and what the kills were like."""

    def __init__(self, folder: Path, words: list[str], seed: int, **environment: str) -> None:
        super().__init__(folder, words, environment)
        self.rng, self.found = random.Random(seed), Counter[str]()
        self.seen = False  # whether there ever was a complete checkpoint

    def newest(self) -> int:
        """The step of the newest checkpoint that is complete."""
        return max((checkpoint.step_of(path) for path in self._complete()), default=0)

    def _complete(self) -> list[Path]:
        return [p for p in checkpoint.checkpoints(self.folder) if checkpoint.sidecar(p).exists()]

    def kill(self, process: Process, ready: Callable[[], object], delay: float, kind: str) -> None:
        """SIGKILL to the whole group, `delay` seconds after `ready()`."""
        assert process.until(ready, LONG), f"the run ended before it could be killed: {process.said()}"
        time.sleep(delay)
        process.kill_group()
        self.check(process.wait(), kind)

    def check(self, code: int, kind: str) -> None:
        """After the first complete checkpoint there is always an intact one, and the newest complete one verifies."""
        self.found[f"{kind} kills"] += code == -signal.SIGKILL
        self.found[f"{kind} kills inside a write"] += bool(self.writing())
        self.found["ended before the kill came"] += code == 0
        complete = self._complete()
        self.found["complete checkpoints that do not verify"] += sum(bool(checkpoint.damage(p)) for p in complete)
        self.seen |= bool(complete)
        self.found["times without an intact checkpoint"] += self.seen and not complete
        found = len(checkpoint.checkpoints(self.folder))
        self.found["killed between the file and its sidecar"] += found - len(complete)


def kill_storm(work: Path, seed: int, steps: int = 200, kills: int = 20) -> Outcome:
    """Drills 1 and 2: 20 kill -9 of a 200-step run, half of them aimed at a save; no sample lost or doubled."""
    words, began = recipe(work, steps), time.perf_counter()
    wanted, seconds = undisturbed(work / "whole", words), time.perf_counter() - began
    storm = Storm(work / "storm", words, seed, TMPDIR=str(work / "tmp"))
    (work / "tmp").mkdir()
    places = sorted(storm.rng.sample(range(steps - 20), kills))
    aimed = set(storm.rng.sample(range(kills), kills // 2))
    for number, place in enumerate(places):
        if number in aimed:  # the file is about four times as large as the weights
            storm.check(storm.go(f"fault=kill@ckpt_write={storm.rng.random() * 3.8:.3f}"), "aimed")
        else:
            process = storm.start()
            ready = lambda a=place // 10 * 10, p=process: storm.newest() >= a and trains(p)  # noqa: E731
            storm.kill(process, ready, storm.rng.random() * 10 * seconds / steps, "random")
    end, lines = survived(storm, wanted, ()), losses(storm.folder)
    return {
        **end, **storm.found,
        "folders beside the run's": len([p for p in work.iterdir() if "@" in p.name]),
        "files left in TMPDIR": len([p for p in (work / "tmp").rglob("*") if p.is_file()]),
        "steps redone": sum(len(v) - 1 for v in lines.values()),
        "steps missing from metrics.jsonl": steps - len(lines),
        "redone steps whose loss differed": sum(len(set(v)) > 1 for v in lines.values()),
        **samples_told(storm.folder, work / "whole", 4 * steps),
    }  # fmt: skip


def workers_change(work: Path, seed: int) -> Outcome:
    """Drill 3: kill at step 77 of 100 with two workers, go on with none, one and four."""
    words = recipe(work, 100)
    wanted, killed = undisturbed(work / "whole", words), Victim(work / "killed", words)
    killed.go("fault=kill@step=77")
    folders = {workers: shutil.copytree(killed.folder, work / f"workers{workers}") for workers in (0, 1, 4)}
    return {f"{n} workers": survived(Victim(f, words), wanted, [f"loader.workers={n}"]) for n, f in folders.items()}


def inside_windows(work: Path, seed: int) -> Outcome:
    """Drill 4: SIGTERM and kill -9 at micro-steps 1, 2, 3 of a window of 4, in two windows each: 12 runs."""
    words = recipe(work, 8, save_every=3)
    wanted = undisturbed(work / "whole", words)
    faults = [f"{kind}@micro_step={place}" for kind in ("term", "kill") for place in (5, 6, 7, 17, 18, 19)]
    return {fault: survived(Victim(work / fault, words), wanted, [f"fault={fault}"], ()) for fault in faults}


def aimed_kills(work: Path, seed: int, layout: str, kills: int = 50) -> Outcome:
    """Drill 6: 50 kills aimed at the saves of a checkpoint of over 100 MB."""
    words = [*ONE, "unet.widths=[80,160,240]", "trainer.max_steps=250"]
    wanted = undisturbed(work / "whole", words)
    place = work / "tmp" if layout == "same" else Path("/dev/shm") / f"drill-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    storm = Storm(work / "storm", words, seed, TMPDIR=str(place))
    for _ in range(kills):
        _aimed_kill(storm)
        storm.found["files left in TMPDIR"] += len(list(place.iterdir()))
    end = survived(storm, wanted, ())
    shutil.rmtree(place)
    return {
        "TMPDIR": "on the run's file system" if layout == "same" else "/dev/shm",
        "checkpoint, MB": round(checkpoint.checkpoints(work / "whole")[0].stat().st_size / 1e6),
        **end, **storm.found,
        "set aside as *.corrupt": len(list((storm.folder / checkpoint.FOLDER).glob("*.corrupt*"))),
    }  # fmt: skip


def _aimed_kill(storm: Storm) -> None:
    """Kill 0 to 0.6 s after a save began: its bytes, fsync, rename, sidecar, and the removal of the oldest."""
    process = storm.start()
    assert process.until(lambda: storm.writing(process.pid), LONG), process.said()
    storm.found["temporaries left after a restart"] += max(0, len(storm.writing()) - 1)
    if (kind := storm.rng.choice(["first save", "second save"])) == "second save":
        before = storm.newest()
        process.until(lambda: storm.newest() > before and storm.writing(process.pid), LONG)
    storm.kill(process, lambda: True, storm.rng.random() * storm.rng.choice([0.05, 0.6]), kind)


def preemptions(work: Path, seed: int, steps: int = 60, signals: int = 20) -> Outcome:
    """Drill 8: SIGTERM at 20 random moments."""
    words, rng, seconds, codes = recipe(work, steps), random.Random(seed), [], Counter[int]()
    wanted, victim = undisturbed(work / "whole", words), Victim(work / "stopped", words)
    for _ in range(signals):
        process = victim.start()
        process.until(lambda p=process: trains(p), LONG)
        time.sleep(rng.random())
        asked = time.perf_counter()
        process.send(signal.SIGTERM)
        codes[process.wait(LONG)] += 1
        seconds.append(time.perf_counter() - asked)
    redone = sum(len(v) - 1 for v in losses(victim.folder).values())
    slowest = {"steps redone": redone, "slowest exit after the signal, s": round(max(seconds), 1)}
    return {"exit codes": dict(codes), **slowest, **survived(victim, wanted, ())}


def _resident(pid: int) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):  # it just ended
        return psutil.Process(pid).memory_info().rss // 10**6
    return 0


def memory_of_a_save(work: Path, seed: int) -> Outcome:
    """Drill 16: resident memory while a checkpoint of 1 GB is saved, against just before."""
    words = [*ONE, "unet.widths=[256,512,736]", "trainer.max_steps=3"]
    victim = Victim(work / "run", words)
    process, saves, before = victim.start(), [(0, 0)], 0  # MB before and at most during

    def look() -> None:
        nonlocal before
        now = _resident(process.pid)
        if not victim.writing(process.pid):
            before = now or before
        elif saves[-1][0] == before:
            saves[-1] = (before, max(saves[-1][1], now))
        else:
            saves.append((before, now))

    process.until(look, LONG)
    code = process.wait(LONG)
    path = checkpoint.checkpoints(victim.folder)[0]
    weights = checkpoint.load(path)["state_dict"].values()
    return {
        "exit code": code, "checkpoint, MB": round(path.stat().st_size / 1e6),
        "largest tensor, MB": round(max(w.numel() * w.element_size() for w in weights) / 1e6),
        "resident before a save, at most during it, MB": saves[1:],
        "grown by at most, MB": max(after - before for before, after in saves),
    }  # fmt: skip


def precision(work: Path, seed: int) -> Outcome:
    """Drill 21: 200 steps in float32 and in bf16-mixed, the same draws."""
    words = ["model=tiny", "loader.size=32", "loader.resize=null", "loader.batch_size=4", "trainer.max_steps=200"]
    words += ["val_every=0", "log_every=1"]
    kinds = ("32-true", "bf16-mixed")
    for kind in kinds:
        undisturbed(work / kind, [*words, f"trainer.precision={kind}"])
    full, half = (np.array([v[0] for _, v in sorted(losses(work / kind).items())]) for kind in kinds)
    return {
        "mean loss of steps 1 to 200": [round(float(x.mean()), 4) for x in (full, half)],
        "mean loss of the last 50": [round(float(x[-50:].mean()), 4) for x in (full, half)],
        "they differ by, %": round(100 * abs(half[-50:].mean() / full[-50:].mean() - 1), 3),
        "one step differs by at most, %": round(100 * float(np.abs(half / full - 1).max()), 3),
    }


def average(work: Path, seed: int, steps: int = 50, decay: float = 0.99) -> Outcome:
    """Drill 22: the averaged weights of 50 steps, recomputed in float64 from the raw ones."""
    words = [*recipe(work, steps, save_every=1), "keep=99", f"model.ema={decay}", "optimizer.lr=1e-3"]
    undisturbed(work / "run", words)
    worst, moved, count = average_error(work / "run", decay)
    return {"checkpoints": count, "largest error": f"{worst:.1e}", "largest distance from the raw": f"{moved:.1e}"}
