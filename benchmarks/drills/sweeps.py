"""Drills 43 and 47 to 51: crowded folders, jobs that fail in every way, controllers that die, 64 jobs, a cut study."""

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from ip2p_lightning.runs.folder import read_status
from tests.support.drilling import LONG, Outcome, losses
from tests.support.processes import Process
from tests.support.sweeping import SMALL, await_that, crowd, runs, started, states, sweep, times

TROUBLE = "fault='raise@step=1,seed=2;exit@step=1,seed=4;kill@step=1,seed=5;nan@step=1,seed=6;oom@step=1,seed=7'"
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.poll=1", "hydra.launcher.mem_gb=1")


def same_second(work: Path, seed: int, count: int = 20, steps: int = 40) -> Outcome:
    """Drill 43: the same command twenty times in one second."""
    logs = work.parent / f"{work.name}-logs"
    Process(["dry_run=true"], logs / "warm").wait(LONG)  # so that all twenty start from warm imports
    return crowd(work, logs, [f"trainer.max_steps={steps}", "save_every=20"], count, LONG)


def troubled(work: Path, seed: int, launcher: Sequence[str] = ("hydra.launcher.jobs=2",)) -> Outcome:
    """Drill 47, 48: of eight jobs #2 raises, #4 exits, #5 is killed, #6 is NaN, #7 out of memory; then again, twice."""
    folder, words = work / "sweep", [*SMALL, "max_skips=0", "seed=1,2,3,4,5,6,7,8", *launcher]
    found: Outcome = {}
    for name, more in (("with the faults", [TROUBLE]), ("again", []), ("once more", [])):
        before = {seed: times(path) for seed, path in runs(folder).items() if states(folder)[seed] == "complete"}
        code, output = sweep(folder, *words, *more, timeout=LONG)
        found[name] = {
            "exit code": code, "states": states(folder), "last line": output.splitlines()[-1],
            "failures named": [line[:150] for line in output.splitlines() if "(log: " in line],
            "complete jobs that were touched": sum(times(runs(folder)[s]) != old for s, old in before.items()),
            "jobs that began twice": [s for s, path in runs(folder).items() if len(list(path.glob("events*"))) > 1],
        }  # fmt: skip
    return found


def dead_controller(work: Path, seed: int, kills: int = 3) -> Outcome:
    """Drill 50: the controller of a sweep of six is killed -9 three times, and started again."""
    folder, rng, found, complete = work / "sweep", random.Random(seed), Counter[str](), {}
    words = [*SMALL, "trainer.max_steps=120", "save_every=20", "log_every=1", "seed=1,2,3,4,5,6"]
    words.append("hydra.launcher.jobs=2")

    def look() -> dict[Path, dict]:
        found["complete jobs that were touched"] += sum(times(path) != old for path, old in complete.items())
        return {p: times(p) for p in runs(folder).values() if read_status(p).get("state") == "complete"}

    for number in range(kills):
        with started(folder, "-m", *words) as process:  # and kills it
            await_that(lambda n=number: len(list(folder.glob("*/metrics.jsonl"))) > 2 * n or process.poll() is not None)
            time.sleep(rng.random() * 3)
        found["controllers killed"] += process.wait() == -signal.SIGKILL
        await_that(lambda: not any("running" in read_status(p).get("state", "") for p in runs(folder).values()))
        complete = look()
    found["exit code at the end"], _ = sweep(folder, *words, timeout=LONG)
    look()
    logged = [losses(path) for path in runs(folder).values()]
    return {
        **found, "states": dict(Counter(states(folder).values())), "folders": len(list(folder.glob("*/config.json"))),
        "steps logged twice": sum(len(v) - 1 for run in logged for v in run.values()),
        "steps missing": sum(120 - len(run) for run in logged),
    }  # fmt: skip


def many(work: Path, seed: int, jobs: int = 64) -> Outcome:
    """Drill 51: 64 jobs, two at a time; the controller's memory by the number of jobs that have ended."""
    folder, seen = work / "sweep", []
    words = [*SMALL, "trainer.max_steps=2", f"seed=range(0,{jobs})", "hydra.launcher.jobs=2"]
    with started(folder, "-m", *words) as process:
        resident = psutil.Process(process.pid).memory_info
        while process.poll() is None:
            ended = sum(read_status(path).get("state") == "complete" for path in runs(folder).values())
            seen.append((ended, resident().rss / 1e6))
            time.sleep(1)
        output = process.stdout.read()
    ended, megabytes = np.array([row for row in seen if row[0]] or seen).T
    return {
        "exit code": process.returncode, "states": dict(Counter(states(folder).values())),
        "folders": len(list(folder.glob("*/config.json"))),
        "rows of the table": sum(line[:1].isdigit() for line in output.splitlines()),
        "controller's MB, first and last": f"{seen[0][1]:.1f}, {seen[-1][1]:.1f}",
        "MB a job": round(float(np.polyfit(ended, megabytes, 1)[0]), 4),
    }  # fmt: skip


def study(work: Path, seed: int, trials: int = 12) -> Outcome:
    """Optuna: twelve trials, the controller killed -9 in the middle of the sixth; and a study that nobody kills."""
    from tests.sweeps.test_optuna_sweeper import cut_and_whole

    cut, whole = cut_and_whole(work, trials)
    return {
        "trials, cut and whole": [len(cut), len(whole)],
        "rows equal (state, value, parameters)": sum(a == b for a, b in zip(cut, whole, strict=True)),
        "states, cut": dict(Counter(row["state"] for row in cut)),
    }
