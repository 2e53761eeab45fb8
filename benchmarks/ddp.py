"""Two ranks on two cores against one process on one: images a second of real runs, in steady state.

``python -m benchmarks.ddp [--batch 2] [--accumulate 1 4] [--steps 8] [--rounds 3]``

A quarter of Stable Diffusion 1.5's widths at 256 px from a full cache, the same batch on every rank, one thread each,
in turn. Before each run it waits until the machine is quiet (10 minutes at most). Beside images per wall second, which
neighbours disturb, the CPU seconds of a rank's step: the lone process's, twice, over them is the ratio if none waits.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.material import write_checkpoint, write_pairs

PAIRS, SKIPPED = 16, 2  # steps at the beginning that are not counted
NUMBERS = {"batch": 2, "steps": 8, "rounds": 3, "patience": 600}  # of a micro-batch; counted in a run; of runs; seconds
GROUP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
SIDES = {"one": ["trainer=cpu"], "two": GROUP}
HEAD = "| accumulated | side | images/s, most / median | CPU s of a rank's step, least / median |\n|---|---|---|---|"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    """Measure and print."""
    options = _options()
    work = Path(options.work)
    checkpoint = write_checkpoint(work / "small", "small")
    words = [
        "model=local", f"model.path={checkpoint}", "data=built", f"data.root={write_pairs(work / 'pairs', PAIRS)}",
        "task=denoise", f"loader.batch_size={options.batch}", "loader.resize=null", "loader.crop=center",
        "model.channels_last=true", "cache=disk", f"cache_dir={work / 'cache'}", "val_every=0", "log_every=1",
        "save_every=1000000", f"trainer.max_steps={SKIPPED + options.steps}",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "ip2p_lightning.cli.cache", *words], check=True, stdout=subprocess.DEVNULL)
    print(f"gradients: {max(p.stat().st_size for p in checkpoint.glob('unet/*')) / 2**20:.0f} MiB\n\n{HEAD}")
    for window in options.accumulate:
        runs: dict[str, list[Any]] = {side: [] for side in SIDES}
        for side in list(SIDES) * options.rounds:
            more = [*SIDES[side], f"trainer.accumulate_grad_batches={window}", f"hydra.run.dir={work / 'run'}"]
            runs[side].append(_run(work / "run", [*words, *more], side == "two", options.patience))
        _print(window, runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 4])
    for name, default in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--work", default="/tmp/ip2p-ddp")
    return parser.parse_args()


def _run(folder: Path, words: list[str], group: bool, patience: int) -> tuple[list[float], list[float]]:
    """Images a second, and CPU seconds of a rank, of each counted step of a run."""
    shutil.rmtree(folder, ignore_errors=True)
    busy = _quiet(patience)
    command, silent = [sys.executable, "-m", "ip2p_lightning.cli.train", *words], subprocess.DEVNULL
    process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=silent, stderr=silent)
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


def _quiet(patience: float) -> float:
    """Wait until less than a fifth of the machine is busy; the share that is."""
    ends = time.monotonic() + patience
    while (busy := psutil.cpu_percent(5) / 100) >= 0.2 and time.monotonic() < ends:
        pass
    return busy


def _print(window: int, runs: dict[str, list[Any]]) -> None:
    rates, cpu = {}, {}
    for side, found in runs.items():
        rates[side] = [statistics.median(run[0]) for run in found]
        cpu[side] = [step for run in found for step in run[1]]
        told = f"{max(rates[side]):.3f} / {statistics.median(rates[side]):.3f} | {min(cpu[side]):.2f}"
        print(f"| {window} | {side} | {told} / {statistics.median(cpu[side]):.2f} |", flush=True)
    wall = [of(rates["two"]) / of(rates["one"]) for of in (max, statistics.median)]
    free = [2 * of(cpu["one"]) / of(cpu["two"]) for of in (min, statistics.median)]
    print(f"| {window} | ratio | {wall[0]:.2f} / {wall[1]:.2f} | {free[0]:.2f} / {free[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
