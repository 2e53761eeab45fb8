"""The command line of the drills."""

import json
import platform
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import drills
from benchmarks.drills import ranks, runs, sweeps
from benchmarks.support.command import options

RESULTS = Path(__file__).parents[1] / "results"
Drill = Callable[[Path, int], dict[str, object]]  # folder, seed -> what was measured
ROOMS: dict[str, dict[str, Drill]] = {
    "runs": {
        "1": runs.kill_storm, "3": runs.workers_change, "4": runs.inside_windows,
        "6-same": partial(runs.aimed_kills, layout="same"), "6-shm": partial(runs.aimed_kills, layout="shm"),
        "8": runs.preemptions, "16": runs.memory_of_a_save, "21": runs.precision, "22": runs.average,
    },
    "ranks": {
        "40-rank0": partial(ranks.rank_kills, rank=0), "40-rank1": partial(ranks.rank_kills, rank=1),
        "41-rank0": partial(ranks.hang, rank=0), "41-rank1": partial(ranks.hang, rank=1),
        "42": ranks.crowded, "44": ranks.uneven,
    },
    "sweeps": {
        "43": sweeps.same_second, "47": sweeps.troubled, "48": partial(sweeps.troubled, launcher=sweeps.SLURM),
        "50": sweeps.dead_controller, "51": sweeps.many, "optuna": sweeps.study,
    },
}  # fmt: skip
DRILLS = {number: drill for room in ROOMS.values() for number, drill in room.items()}


def record(number: str, seed: int, outcome: dict[str, object], seconds: float) -> None:
    """Append a drill's outcome to this month's table."""
    from ip2p_lightning.runs.folder import commit

    room = next(name for name, drills in ROOMS.items() if number in drills)
    about = getattr(DRILLS[number], "func", DRILLS[number]).__doc__.splitlines()[0]
    where = f"{time.strftime('%Y-%m-%d')}, commit {commit()}, {platform.machine()}, {seconds / 60:.1f} min"
    lines = [f"\n## {number}: {about}\n", f"`python -m benchmarks.drills {number} --seed {seed}`, {where}.\n"]
    lines += ["| what | measured |", "|---|---|", *(f"| {what} | {told} |" for what, told in outcome.items()), ""]
    with (RESULTS / f"{room}_drills_cpu_{time.strftime('%Y%m')}.md").open("a") as file:
        file.write("\n".join(lines))


def _numbers(word: str) -> list[str]:
    """The drill of that number, or all that begin with it: 6 is 6-same and 6-shm."""
    if found := [number for number in DRILLS if word in (number, number.partition("-")[0])]:
        return found
    raise SystemExit(f"error: no drill {word}; known: {', '.join([*ROOMS, *DRILLS])}")


def main() -> None:
    """Run the drills that are named, all of them by default."""
    asked = options(drills.__doc__, drills=list[str], work=Path("/tmp/drills"), seed=0, record=True)
    for number in [n for word in asked.drills or ROOMS for n in ROOMS.get(word) or _numbers(word)]:
        work = asked.work / f"{number}-{asked.seed}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        started = time.perf_counter()
        outcome = DRILLS[number](work, asked.seed)
        if asked.record:
            record(number, asked.seed, outcome, time.perf_counter() - started)
        print(number, json.dumps(outcome, indent=2, default=str), f"\nits runs: {work}", flush=True)


if __name__ == "__main__":
    main()
