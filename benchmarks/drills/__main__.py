"""The command line of the drills."""

from __future__ import annotations

import argparse
import functools
import json
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import drills
from benchmarks.drills import disk, kills, numerics, requeued, stops

TABLE = Path(__file__).parents[1] / "drills_202611.md"
DRILLS: dict[str, Callable[[Path, int], dict[str, object]]] = {
    "1": kills.kill_storm,
    "3": kills.workers_change,
    "4": kills.inside_windows,
    "5": kills.exceptions,
    "6-same": functools.partial(kills.aimed_kills, layout="same"),
    "6-shm": functools.partial(kills.aimed_kills, layout="shm"),
    "7": kills.harmed,
    "8": stops.preemptions,
    "9": requeued.requeued,
    "10": stops.changed,
    "11": stops.finished,
    "12": stops.moved,
    "13": disk.full_disks,
    "14": disk.closed_places,
    "15": disk.rot,
    "16": disk.memory_of_a_save,
    "17": disk.handles,
    "19": numerics.nan,
    "20": numerics.not_finite,
    "21": numerics.precision,
    "22": numerics.average,
}


def record(number: str, seed: int, outcome: dict[str, object], seconds: float) -> None:
    """Append a drill's outcome to the table."""
    from ip2p_lightning.runs.folder import commit

    if not TABLE.exists():
        TABLE.write_text("# Reliability drills of single runs, measured\n\nAs the script found them, newest last.\n")
    drill = DRILLS[number]
    about = (getattr(drill, "func", drill).__doc__ or "").splitlines()[0]
    lines = [f"\n## {about}\n", f"`python -m benchmarks.drills {number} --seed {seed}`, {time.strftime('%Y-%m-%d')}, "]
    lines[-1] += f"commit {commit()}, {platform.machine()}, {seconds / 60:.1f} min on a shared 2-core machine.\n"
    lines += ["| what | measured |", "|---|---|", *(f"| {a} | {b} |" for a, b in outcome.items()), ""]
    with TABLE.open("a") as file:
        file.write("\n".join(lines))


def main() -> None:
    """Run the drills that are named, all of them by default."""
    parser = argparse.ArgumentParser(description=drills.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drills", nargs="*", metavar="DRILL", help=f"some of {', '.join(DRILLS)}; 6 is both of its")
    parser.add_argument("--work", type=Path, default=Path("/tmp/drills"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    wanted = [name for word in args.drills or DRILLS for name in DRILLS if word in (name, name.partition("-")[0])]
    for number in wanted:
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
