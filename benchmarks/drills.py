"""The full-size reliability drills: kill, signal and resume real runs, and compare digests with undisturbed ones.

usage: python -m benchmarks.drills [1 6 8 40 ...] [--work DIR] [--seed N]

Each drill adds its measured outcome to ``benchmarks/drills_202611.md``. One at a time: they take 5 to 30 minutes each.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from processes import Process, digest, run
from sd_checkpoint import write_sd_checkpoint

from ip2p_lightning import checkpoint
from ip2p_lightning.storage import TEMPORARY

TABLE = Path(__file__).with_name("drills_202611.md")
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
        self.found["checkpoint seen"] |= bool(complete)
        self.found["times without an intact checkpoint"] += bool(self.found["checkpoint seen"]) and not complete
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
    words += ["loader.workers=2", "trainer.accumulate_grad_batches=4", "model.drop=0.05", "model.ema=0.99"]
    return [*words, f"trainer.max_steps={steps}", "val_every=0", "save_every=10", "log_every=1", "optimizer.lr=1e-4"]


def kill_storm(work: Path, seed: int, steps: int = 200, kills: int = 20) -> dict[str, object]:
    """Drill 1: 20 random kill -9 of a 200-step run, half of them aimed at a save."""
    words = recipe(work, steps)
    wanted, seconds = undisturbed(work / "whole", words)
    rng = random.Random(seed)
    storm = Storm(work / "storm", words, rng)
    places = sorted(rng.sample(range(steps - 20), kills))
    aimed = set(rng.sample(range(kills), kills // 2))
    for number, place in enumerate(places):
        at = place // 10 * 10
        if number in aimed:  # the file is about four times as large as the weights
            storm.die(f"kill@ckpt_write={rng.random() * 3.8:.3f}")
        else:
            process = storm.start()
            ready = lambda a=at, p=process: storm.newest() >= a and trains(p)  # noqa: E731
            storm.kill(process, ready, rng.random() * 10 * seconds / steps, "random")
        storm.check()
    code = storm.finish()
    lines = losses(storm.folder)
    return {
        "exit code at the end": code,
        "digest equal to the undisturbed run's": digest(storm.folder) == wanted,
        "folders beside the run's": len([p for p in work.iterdir() if "@" in p.name]),
        **storm.found,
        "steps redone": sum(len(v) - 1 for v in lines.values()),
        "steps missing from metrics.jsonl": steps - len(lines),
        "redone steps whose loss differed": sum(len(set(v)) > 1 for v in lines.values()),
        "seconds undisturbed": round(seconds),
    }


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


def aimed_kills(work: Path, seed: int, kills: int = 50) -> dict[str, object]:
    """Drill 6: kills aimed at the saves of a checkpoint of over 100 MB, on two layouts of file systems."""
    words = ["unet.widths=[80,160,240]", "loader.size=16", "loader.resize=null", "loader.batch_size=1", "val_every=0"]
    words += ["task=denoise", "trainer.max_steps=250", "save_every=1", "log_every=1"]
    wanted, _ = undisturbed(work / "whole", words)
    size = checkpoint.checkpoints(work / "whole")[0].stat().st_size
    rows: dict[str, object] = {"checkpoint, MB": round(size / 1e6)}
    for name, place in (("same file system", work / "tmp"), ("TMPDIR=/dev/shm", Path("/dev/shm") / f"drill-{seed}")):
        place.mkdir(parents=True, exist_ok=True)
        storm = Storm(work / name.replace("/", "_").replace(" ", "-").replace("=", "-"), words, random.Random(seed))
        storm.environment = {"TMPDIR": str(place)}
        for _ in range(kills):
            _one_aimed_kill(storm)
            storm.found["files left in TMPDIR"] += len(list(place.iterdir()))
        code = storm.finish()
        storm.found["digest equal to the undisturbed run's"] = digest(storm.folder) == wanted
        storm.found["temporaries at the end"] = len(storm.writing())
        corrupt = len(list((storm.folder / checkpoint.FOLDER).glob("*.corrupt")))
        rows[name] = {"exit code at the end": code, **storm.found, "set aside as *.corrupt": corrupt}
        shutil.rmtree(place)
        shutil.rmtree(storm.folder)
    return rows


def _one_aimed_kill(storm: Storm) -> None:
    """Kill 0 to 0.6 s after a save began: its bytes, fsync, rename, sidecar, and the removal of the oldest."""
    process = storm.start()
    if not process.until(lambda: storm.writing(process.pid), LONG):
        raise RuntimeError(process.said()[-2000:])
    storm.orphans()
    kind = storm.rng.choice(["first save", "second save"])
    if kind == "second save":
        before = storm.newest()
        process.until(lambda: storm.newest() > before and storm.writing(process.pid), LONG)
    storm.kill(process, lambda: True, storm.rng.random() * storm.rng.choice([0.05, 0.6]), kind)
    storm.check()


def preemptions(work: Path, seed: int, steps: int = 60, signals: int = 20) -> dict[str, object]:
    """Drill 8: SIGTERM at 20 random moments; the whole run must be the undisturbed one, without a step redone."""
    words = recipe(work, steps)
    wanted, seconds = undisturbed(work / "whole", words)
    storm, rng, slowest = Storm(work / "stopped", words, random.Random(seed)), random.Random(seed), 0.0
    for _ in range(signals):
        process = storm.start()
        process.until(lambda p=process: trains(p), LONG)
        time.sleep(rng.random() * seconds / steps * 3)
        asked = time.perf_counter()
        process.send(signal.SIGTERM)
        code = process.wait(LONG)
        slowest = max(slowest, time.perf_counter() - asked)
        status = json.loads((storm.folder / "status.json").read_text())
        storm.found[f"exit {code}, {status['state']}"] += 1
    code = storm.finish()
    lines = losses(storm.folder)
    return {
        **storm.found,
        "exit code at the end": code,
        "digest equal to the undisturbed run's": digest(storm.folder) == wanted,
        "steps redone": sum(len(v) - 1 for v in lines.values()),
        "slowest exit after the signal, s": round(slowest, 1),
    }


def rank_kills(work: Path, seed: int, steps: int = 40, kills: int = 10) -> dict[str, object]:
    """Drill 40: kill -9 of rank 0 and of rank 1 at random steps of a 2-rank gloo job; the same command resumes it."""
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true", "task=denoise"]
    words += [
        "loader.size=32",
        "loader.resize=null",
        "loader.batch_size=2",
        f"trainer.max_steps={steps}",
        "val_every=0",
    ]
    words += ["save_every=5", "log_every=1", "timeout=60"]
    wanted, _ = undisturbed(work / "whole", words)
    found: Counter[str] = Counter()
    for rank in (0, 1):
        storm = Storm(work / f"rank{rank}", words, random.Random(seed + rank))
        for step in sorted(storm.rng.sample(range(steps), kills)):
            storm.words = [*words, f"fault=kill@step={step},rank={rank}"]
            code = storm.start().wait(LONG)
            state = json.loads((storm.folder / "status.json").read_text())["state"]
            found[f"rank {rank} killed: exit {code}, {state}"] += 1
        storm.words = words
        found[f"rank {rank}: exit code at the end"] = storm.finish()
        found[f"rank {rank}: digest equal to the undisturbed run's"] = digest(storm.folder) == wanted
    return dict(found)


DRILLS: dict[str, Callable[[Path, int], dict[str, object]]] = {
    "1": kill_storm,
    "6": aimed_kills,
    "8": preemptions,
    "40": rank_kills,
}


def record(number: str, seed: int, outcome: dict[str, object], seconds: float) -> None:
    """Append a drill's outcome to the table."""
    from ip2p_lightning.runs import commit

    if not TABLE.exists():
        TABLE.write_text("# Reliability drills, measured\n\nOutcomes as the script found them, newest last.\n")
    about = (DRILLS[number].__doc__ or "").splitlines()[0]
    lines = [f"\n## {about}\n", f"`python -m benchmarks.drills {number} --seed {seed}`, {time.strftime('%Y-%m-%d')}, "]
    lines[-1] += f"commit {commit()}, {platform.machine()}, {seconds / 60:.0f} min on a shared 2-core machine.\n"
    lines += ["| what | measured |", "|---|---|", *(f"| {a} | {b} |" for a, b in _flat(outcome)), ""]
    with TABLE.open("a") as file:
        file.write("\n".join(lines))


def _flat(outcome: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in outcome.items():
        rows += _flat(value, f"{prefix}{name}: ") if isinstance(value, dict) else [(prefix + name, value)]
    return rows


def main() -> None:
    """Run the drills that are named, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drills", nargs="*", metavar="DRILL", help=f"one of {', '.join(DRILLS)}")
    parser.add_argument("--work", type=Path, default=Path("/tmp/drills"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for number in args.drills or DRILLS:
        work = args.work / f"{number}-{args.seed}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        started = time.perf_counter()
        outcome = DRILLS[number](work, args.seed)
        record(number, args.seed, outcome, time.perf_counter() - started)
        print(number, json.dumps(outcome, indent=2, default=str), flush=True)
        print(f"its runs: {work}", flush=True)


if __name__ == "__main__":
    main()
