"""Two ranks on two cores against one process on one: images a second of real runs, in steady state.

``python -m benchmarks.speed.ddp [--batch 2] [--accumulate 1 4] [--steps 8] [--rounds 3]``

A quarter of Stable Diffusion 1.5's widths at 256 px from a full cache, the same batch on every rank, one thread each,
in turn. Before each run it waits until the machine is quiet (10 minutes at most). Beside images per wall second, which
neighbours disturb, the CPU seconds of a rank's step: the lone process's, twice, over them is the ratio if none waits.
"""

import contextlib
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.support.command import CACHE, TRAIN, WORK, environment, options
from benchmarks.support.material import SIZES, write_checkpoint, write_pairs

PAIRS, SKIPPED = 16, 2  # steps at the beginning that are not counted
NUMBERS = {"batch": 2, "steps": 8, "rounds": 3, "patience": 600}  # of a micro-batch; counted in a run; of runs; seconds
GROUP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
SIDES = {"one": ["trainer=cpu"], "two": GROUP}
HEAD = "| accumulated | side | images/s, most / median | CPU s of a rank's step, least / median |\n|---|---|---|---|"


def main() -> None:
    """Measure and print."""
    asked = options(__doc__, size=tuple(SIZES), accumulate=[1, 4], work=WORK, **NUMBERS)
    checkpoint = write_checkpoint(asked.work / asked.size, asked.size)
    words = [
        "model=local", f"model.path={checkpoint}", "data=built", "task=denoise", f"loader.batch_size={asked.batch}",
        f"data.root={write_pairs(asked.work / f'pairs-{PAIRS}', PAIRS)}", "loader.resize=null", "loader.crop=center",
        "model.channels_last=true", "cache=disk", f"cache_dir={asked.work / 'cache-ddp'}", "val_every=0",
        "log_every=1", "save_every=1000000", f"trainer.max_steps={SKIPPED + asked.steps}",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", CACHE, *words], check=True, stdout=subprocess.DEVNULL)
    print(f"gradients: {max(p.stat().st_size for p in checkpoint.glob('unet/*')) / 2**20:.0f} MiB\n\n{HEAD}")
    for window in asked.accumulate:
        runs: dict[str, list[Any]] = {side: [] for side in SIDES}
        for side in list(SIDES) * asked.rounds:
            folder = asked.work / "run-ddp"
            more = [*SIDES[side], f"trainer.accumulate_grad_batches={window}", f"hydra.run.dir={folder}"]
            runs[side].append(_run(folder, [*words, *more], side == "two", asked.patience))
        _print(window, runs)


def _run(folder: Path, words: list[str], group: bool, patience: int) -> tuple[list[float], list[float]]:
    """Images a second, and CPU seconds of a rank, of each counted step of a run."""
    shutil.rmtree(folder, ignore_errors=True)
    ends = time.monotonic() + patience
    while (busy := psutil.cpu_percent(5) / 100) >= 0.2 and time.monotonic() < ends:
        pass
    command, silent = [sys.executable, "-m", TRAIN, *words], subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment(), stdout=silent, stderr=silent)
    cpu = [(0, 0.0)]  # optimizer steps logged, and CPU seconds until then
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it just ended
            if len(_lines(folder)) > cpu[-1][0]:
                cpu.append((len(_lines(folder)), _cpu_of(process.pid)))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"ended with {process.returncode}: {' '.join(command)}")
    rates = [json.loads(line)["train/images_per_s"] for line in _lines(folder)][SKIPPED:]
    steps = [(b - a) / (m - n) for (n, a), (m, b) in itertools.pairwise(cpu) if n >= SKIPPED]
    print(f"{1 + group} at once, {busy:.0%} busy before: {statistics.median(rates):.3f} images/s", file=sys.stderr)
    return rates, [step / (1 + group) for step in steps]


def _lines(folder: Path) -> list[str]:
    return [line for file in folder.glob("metrics.jsonl") for line in file.read_text().splitlines()]


def _cpu_of(pid: int) -> float:
    """CPU seconds so far of a process and all that it started."""
    top = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in (top, *top.children(recursive=True)))


def _print(window: int, runs: dict[str, list[Any]]) -> None:
    rates, cpu = {}, {}
    for side, found in runs.items():
        rates[side] = [statistics.median(run[0]) for run in found]
        cpu[side] = [step for run in found for step in run[1]]
        told = [of(times[side]) for times, least in ((rates, max), (cpu, min)) for of in (least, statistics.median)]
        print("| {} | {} | {:.3f} / {:.3f} | {:.2f} / {:.2f} |".format(window, side, *told), flush=True)
    wall = [of(rates["two"]) / of(rates["one"]) for of in (max, statistics.median)]
    free = [2 * of(cpu["one"]) / of(cpu["two"]) for of in (min, statistics.median)]
    print(f"| {window} | ratio | {wall[0]:.2f} / {wall[1]:.2f} | {free[0]:.2f} / {free[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
