"""Two ranks on two cores against one process on one: images a second of real runs, in steady state.

``python -m benchmarks.ddp [--size small] [--accumulate 1 4] [--steps 8] [--rounds 3] [--words WORD ...]``

A quarter of Stable Diffusion 1.5's widths at 256 px from a full cache, the same batch on every rank, one thread each,
in turn. Before each run it waits until the machine is quiet (10 minutes at most). Beside images per wall second, which
neighbours disturb, the CPU seconds of a rank's step: the lone process's, twice, over them is the ratio if none waits.
"""

from __future__ import annotations

import argparse
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

from benchmarks.material import SIZES, write_checkpoint, write_pairs

PAIRS, SKIPPED = 16, 2  # steps at the beginning that are not counted
UNET = "unet/diffusion_pytorch_model.safetensors"
GROUP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
SIDES = {"one": ["trainer=cpu"], "two": GROUP}
HEAD = "| accumulated | side | images/s, most / median | CPU s of a rank's step, least / median |\n|---|---|---|---|"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    """Measure and print."""
    options = _options()
    work = Path(options.work)
    run = work / "run"
    checkpoint = write_checkpoint(work / options.size, options.size)
    write_pairs(work / "pairs", PAIRS)
    words = [
        "model=local", f"model.path={checkpoint}", "data=built", f"data.root={work / 'pairs'}", "task=denoise",
        f"loader.batch_size={options.batch}", "loader.resize=null", "loader.crop=center", "model.channels_last=true",
        "cache=disk", f"cache_dir={work / 'cache'}", "val_every=0", "log_every=1", "save_every=1000000",
        f"trainer.max_steps={SKIPPED + options.steps}", *options.words,
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "ip2p_lightning.cache", *words], check=True, stdout=subprocess.DEVNULL)
    print(f"gradients: {(checkpoint / UNET).stat().st_size / 2**20:.0f} MiB\n")
    print(HEAD)
    for window in options.accumulate:
        runs: dict[str, list[Any]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side in SIDES:
                more = [*SIDES[side], f"trainer.accumulate_grad_batches={window}", f"hydra.run.dir={run}"]
                runs[side].append(_run(run, [*words, *more], len(SIDES[side]) > 1, options))
        _print(window, runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=2, help="examples a micro-batch and rank")
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps counted in each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=int, default=600, help="seconds to wait for a quiet machine")
    parser.add_argument("--words", nargs="*", default=[], help="more for ip2p-train")
    parser.add_argument("--work", default="/tmp/ip2p-ddp")
    return parser.parse_args()


def _run(folder: Path, words: list[str], group: bool, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Images a second, and CPU seconds of a rank, of each counted step of a run."""
    shutil.rmtree(folder, ignore_errors=True)
    busy = _quiet(options.patience)
    command, silent = [sys.executable, "-m", "ip2p_lightning.train", *words], subprocess.DEVNULL
    process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=silent, stderr=silent)
    cpu = [(0, 0.0)]  # optimizer steps logged, and CPU seconds until then
    while process.poll() is None:
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
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().splitlines() if metrics.exists() else []


def _cpu_of(pid: int) -> float:
    """CPU seconds so far of a process and all that it started."""
    top = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in (top, *top.children(recursive=True)))


def _quiet(patience: float) -> float:
    """Wait until less than a fifth of the machine is busy; the share that is."""
    began, busy = time.monotonic(), psutil.cpu_percent(5) / 100
    while busy >= 0.2 and time.monotonic() - began < patience:
        busy = psutil.cpu_percent(5) / 100
    return busy


def _print(window: int, runs: dict[str, list[Any]]) -> None:
    rates = {side: [statistics.median(run[0]) for run in found] for side, found in runs.items()}
    cpu = {side: [step for run in found for step in run[1]] for side, found in runs.items()}
    for side in SIDES:
        told = f"{max(rates[side]):.3f} / {statistics.median(rates[side]):.3f} | {min(cpu[side]):.2f}"
        print(f"| {window} | {side} | {told} / {statistics.median(cpu[side]):.2f} |", flush=True)
    wall = [of(rates["two"]) / of(rates["one"]) for of in (max, statistics.median)]
    free = [2 * of(cpu["one"]) / of(cpu["two"]) for of in (min, statistics.median)]
    print(f"| {window} | ratio | {wall[0]:.2f} / {wall[1]:.2f} | {free[0]:.2f} / {free[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
