"""The drills of sweeps: jobs that fail in every way, controllers that die, a sweep of 64, a study killed in the middle.

Run by ``python -m benchmarks.group_drills``.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.drills import LONG, losses
from ip2p_lightning.runs.folder import read_status
from tests.support.sweeping import SMALL, await_that, read_seed, started, sweep

TROUBLE = "fault='raise@step=1,seed=2;exit@step=1,seed=4;kill@step=1,seed=5;nan@step=1,seed=6;oom@step=1,seed=7'"
FAILING = (2, 4, 5, 6, 7)
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.poll=1", "hydra.launcher.mem_gb=1")


def troubled(work: Path, seed: int, launcher: Sequence[str] = ("hydra.launcher.jobs=2",)) -> dict[str, object]:
    """Drill 47, 49, 50: of eight jobs #2 raises, #4 exits, #5 is killed, #6 is NaN, #7 out of memory; then again."""
    folder, words = work / "sweep", [*SMALL, "max_skips=0", "seed=1,2,3,4,5,6,7,8", *launcher]
    code, output = sweep(folder, *words, TROUBLE, timeout=LONG)
    first = {"exit code": code, "states": told(folder), **table_of(output)}
    before = {seed: mtimes(path) for seed, path in by_seed(folder).items() if seed not in FAILING}
    code, output = sweep(folder, *words, timeout=LONG)
    second = {"exit code": code, "states": told(folder), "jobs that ran again": run_twice(folder)}
    second["untouched jobs' files unchanged"] = before == {s: mtimes(by_seed(folder)[s]) for s in before}
    whole = {seed: mtimes(path) for seed, path in by_seed(folder).items()}
    code, output = sweep(folder, *words, timeout=LONG)
    unchanged = whole == {seed: mtimes(path) for seed, path in by_seed(folder).items()}
    return {"with the faults": first, "again": second, "once more": {"exit code": code, "no file changed": unchanged}}


def by_seed(folder: Path) -> dict[int, Path]:
    """The runs of a sweep over seeds."""
    return dict(sorted((read_seed(path), path.parent) for path in folder.glob("*/config.json")))


def seeds(folder: Path) -> dict[int, str]:
    """What each run says in its own status file."""
    return {seed: read_status(path).get("state", "not started") for seed, path in by_seed(folder).items()}


def told(folder: Path) -> str:
    """The same in a line."""
    return ", ".join(f"{seed} {state}" for seed, state in seeds(folder).items())


def mtimes(folder: Path) -> dict[str, int]:
    """Each file of a run, and when it was last written."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def run_twice(folder: Path) -> list[int]:
    """Seeds of the jobs that began more than once: each start leaves a file of events."""
    return [seed for seed, path in by_seed(folder).items() if len(list(path.glob("events*"))) > 1]


def table_of(output: str) -> dict[str, object]:
    """The failures that a sweep's last table names."""
    rows = [line for line in output.splitlines() if "(log: " in line]
    named = {}
    for row in rows:
        reason, _, log = row.partition("  ")[2].partition("(log: ")
        named[row.split()[0]] = f"{' '.join(reason.split())[:110]}; log there: {Path(log.rstrip(')')).is_file()}"
    return {"failures named": len(rows), "table": named, "last line": output.splitlines()[-1]}


def dead_controller(work: Path, seed: int, kills: int = 3) -> dict[str, object]:
    """Drill 50: the controller of a sweep of six is killed -9 three times, and started again."""
    folder = work / "sweep"
    words = [
        *SMALL,
        "trainer.max_steps=120",
        "save_every=20",
        "log_every=1",
        "seed=1,2,3,4,5,6",
        "hydra.launcher.jobs=2",
    ]
    found, complete, rng = Counter[str](), {}, random.Random(seed)
    for number in range(kills):
        with started(folder, "-m", *words) as process:  # and kills it
            await_that(lambda n=number: len(list(folder.glob("*/metrics.jsonl"))) > 2 * n or process.poll() is not None)
            time.sleep(rng.random() * 3)
        found["controllers killed"] += process.wait() == -signal.SIGKILL
        await_that(lambda: not any("running" in state for state in seeds(folder).values()))
        found["complete jobs that were touched"] += sum(mtimes(p) != old for p, old in complete.items())
        complete = {p: mtimes(p) for p in by_seed(folder).values() if read_status(p).get("state") == "complete"}
    code, _ = sweep(folder, *words, timeout=LONG)
    found["complete jobs that were touched"] += sum(mtimes(p) != old for p, old in complete.items())
    runs = by_seed(folder).values()
    return {
        **found,
        "exit code at the end": code,
        "states": dict(Counter(seeds(folder).values())),
        "folders": len(list(folder.glob("*/config.json"))),
        "steps logged twice": sum(len(v) - 1 for run in runs for v in losses(run).values()),
        "steps missing": sum(120 - len(losses(run)) for run in runs),
    }


def many(work: Path, seed: int, jobs: int = 64) -> dict[str, object]:
    """Drill 51: 64 jobs, two at a time; the controller's memory by the number of jobs that have ended."""
    folder = work / "sweep"
    words = [*SMALL, "trainer.max_steps=2", f"seed=range(0,{jobs})", "hydra.launcher.jobs=2"]
    began, samples = time.perf_counter(), []
    with started(folder, "-m", *words) as process:
        controller = psutil.Process(process.pid)
        while process.poll() is None:
            samples.append((list(seeds(folder).values()).count("complete"), controller.memory_info().rss / 1e6))
            time.sleep(1)
        output = process.stdout.read()
    found = Counter(read_status(path)["state"] for path in by_seed(folder).values())
    return {
        "exit code": process.returncode,
        "folders": len(list(folder.glob("*/config.json"))),
        "states": dict(found),
        "rows of the table": sum(line[:1].isdigit() for line in output.splitlines()),
        "controller's MB, first and last": f"{samples[0][1]:.1f}, {samples[-1][1]:.1f}",
        "MB a job": round(slope([s for s in samples if s[0] > 0]), 4),
        "minutes": round((time.perf_counter() - began) / 60, 1),
    }


def slope(points: list[tuple[float, float]]) -> float:
    """Of a line through the points, by least squares."""
    import numpy as np

    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0])


def study(work: Path, seed: int, trials: int = 12) -> dict[str, object]:
    """Optuna: twelve trials, the controller killed -9 in the middle of the sixth; and a study that nobody kills."""
    from tests.sweeps.test_optuna_sweeper import command, killed_in_the_middle, rows_of

    cut = killed_in_the_middle(work / "cut", trials, at=trials // 2 - 1)
    code, _ = sweep(work / "whole", *command(trials), timeout=LONG)
    whole = rows_of(work / "whole")
    same = ["trial", "state", "val/psnr", "optimizer.lr", "seed"]
    best = [
        max((r for r in rows if r["state"] == "complete"), key=lambda r: float(r["val/psnr"])) for rows in (cut, whole)
    ]
    return {
        "exit code of the whole one": code,
        "trials, cut and whole": [len(cut), len(whole)],
        "states, cut": dict(Counter(row["state"] for row in cut)),
        "different trials, cut": len({tuple(row[k] for k in same[3:]) for row in cut}),
        "rows equal (state, value, parameters)": sum(
            [a[k] for k in same] == [b[k] for k in same] for a, b in zip(cut, whole, strict=True)
        ),
        "best trial, cut and whole": [row["trial"] for row in best],
        "folders, cut": len(list((work / "cut").glob("*/metrics.jsonl"))),
    }
