"""Ours against diffusers' training script, unmodified: same checkpoint, pairs, recipe; interleaved, on one thread.

``python -m benchmarks.vs_diffusers /path/to/train_instruct_pix2pix.py [--size small] [--rounds 3] [--steps 5]``
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.material import SIZES, write_checkpoint, write_pairs

# diffusers; ours with an empty cache; with a full one; with a full one and the peer's micro-batches (for its memory)
SIDES = ("peer", "cold", "warm", "even")
EPOCHS = 24  # of the instruction-tuned SD experiment: 15,000 steps of 8 over 5,000 pairs


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and leave the numbers in ``WORK/result.json``."""
    options = _options(words)
    work = Path(options.work)
    write_checkpoint(work / options.size, options.size)
    write_pairs(work / f"pairs-{_pairs(options)}", _pairs(options))
    filling = _fill(options)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for number in range(options.rounds):
        for side in options.sides:
            runs[side].append(_run(options, side, number))
            print(f"round {number + 1}: {_told(side, runs[side][-1], options)}", flush=True)
    result = _result(options, runs) | {"filling_cpu_s": filling}
    (work / "result.json").write_text(json.dumps(result, indent=2))
    _print(options, result)
    return 0 if result["same_loss"] else 1


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", help="diffusers' examples/instruct_pix2pix/train_instruct_pix2pix.py")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=2, help="examples a micro-batch")
    parser.add_argument("--accumulate", type=int, default=4, help="micro-batches a step")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps a run: one epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ema", dest="ema", action="store_false")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--work", default="/tmp/ip2p-bench")
    return parser.parse_args(words)


def _pairs(options: argparse.Namespace) -> int:
    return options.batch * options.accumulate * options.steps


def _peer(options: argparse.Namespace, folder: Path, number: int) -> list[str]:
    words = {
        "pretrained_model_name_or_path": Path(options.work) / options.size,
        "dataset_name": Path(options.work) / f"pairs-{_pairs(options)}",
        "cache_dir": Path(options.work) / "datasets",
        "original_image_column": "original_image",
        "edited_image_column": "edited_image",
        "edit_prompt_column": "edit_prompt",
        "output_dir": folder,
        "resolution": 256,
        "train_batch_size": options.batch,
        "gradient_accumulation_steps": options.accumulate,
        "max_train_steps": options.steps,
        "learning_rate": 5e-5,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "conditioning_dropout_prob": 0.05,
        "checkpointing_steps": 10**6,
        "seed": number,
    }
    flat = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    return [options.peer, *flat, "--random_flip", *(["--use_ema"] if options.ema else [])]


def _ours(options: argparse.Namespace, folder: Path, cache: Path, number: int, parts: int) -> list[str]:
    return [
        "ip2p_lightning.cli.train", "model=local", f"model.path={Path(options.work) / options.size}", "data=built",
        f"data.root={Path(options.work) / f'pairs-{_pairs(options)}'}", "task=denoise", "trainer=cpu",
        f"trainer.max_steps={options.steps}", f"trainer.accumulate_grad_batches={parts}",
        f"loader.batch_size={options.batch * options.accumulate // parts}", "loader.resize=null",
        "loader.crop=center", "model.channels_last=true", "val_every=0", "log_every=1", "save_every=1000000",
        f"model.ema={'0.9999' if options.ema else 'null'}", "cache=disk", f"cache_dir={cache}", f"seed={number}",
        f"hydra.run.dir={folder}",
    ]  # fmt: skip


def _fill(options: argparse.Namespace) -> float:
    """The full cache, made by ``ip2p-cache``; its CPU seconds, start-up included."""
    if not {"warm", "even"} & set(options.sides):
        return 0.0
    shutil.rmtree(_cache(options), ignore_errors=True)
    words = _ours(options, Path(options.work) / "filling", _cache(options), 0, 1)[1:]
    command = [sys.executable, "-m", "ip2p_lightning.cli.cache", *words]
    before = _children()
    subprocess.run(command, check=True, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cache(options: argparse.Namespace) -> Path:
    return Path(options.work) / f"cache-{options.size}"


def _environment() -> dict[str, str]:
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | one | {"HF_DATASETS_OFFLINE": "1"}


def _run(options: argparse.Namespace, side: str, number: int) -> dict[str, Any]:
    """One training run in a process of its own."""
    folder = Path(options.work) / f"run-{side}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cache = folder / "cache" if side == "cold" else _cache(options)
    run, parts = folder / "run", options.accumulate if side == "even" else 1
    words = _peer(options, run, number) if side == "peer" else _ours(options, run, cache, number, parts)
    clock, log = folder / "clock.json", folder / "log.txt"
    command = [sys.executable, "-m", "benchmarks.clocked", str(clock), *words]
    with log.open("w") as file:
        subprocess.run(command, check=True, env=_environment(), stdout=file, stderr=subprocess.STDOUT)
    return _measured(json.loads(clock.read_text()), _peer_losses(run) if side == "peer" else _our_losses(run))


def _measured(rows: list[list[float]], losses: list[float]) -> dict[str, Any]:
    cpu = [b[1] - a[1] for a, b in itertools.pairwise(rows)]
    wall = [b[0] - a[0] for a, b in itertools.pairwise(rows)]
    return {
        "cpu_s": cpu, "wall_s": wall, "peak_mb": rows[-1][2], "losses": losses,
        "start_cpu_s": rows[0][1] - min(cpu),  # to the first step: everything before it, less one step
    }  # fmt: skip


def _our_losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def _peer_losses(folder: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for path in sorted(folder.rglob("events.out*")):
        events = EventAccumulator(str(path.parent)).Reload()
        if "train_loss" in events.Tags()["scalars"]:
            return [event.value for event in events.Scalars("train_loss")]
    return []


def _told(side: str, run: dict[str, Any], options: argparse.Namespace) -> str:
    best = min(run["cpu_s"])
    return (
        f"{side:5} {best:.2f} CPU s a step ({options.batch * options.accumulate / best:.2f} images per CPU s), peak "
        f"{run['peak_mb']:.0f} MB, start {run['start_cpu_s']:.1f} CPU s, mean loss {statistics.mean(run['losses']):.4f}"
    )


def _result(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each side's figures over all rounds, and whether the losses are one."""
    found = {s: [x for run in group for x in run["losses"]] for s, group in runs.items()}
    noise = math.sqrt(sum(statistics.variance(x) / len(x) for x in found.values()))
    means = {side: statistics.mean(x) for side, x in found.items()}
    return {
        "options": vars(options), "sides": {side: _figures(group) for side, group in runs.items()}, "runs": runs,
        "mean_loss": means, "noise_of_loss": noise, "same_loss": max(means.values()) - min(means.values()) <= 4 * noise,
        "machine": platform.platform(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "lightning", "transformers", "accelerate")},
    }  # fmt: skip


def _figures(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Minima and medians of a side's steps and starts, and its least peak memory."""
    steps, starts = [s for run in runs for s in run["cpu_s"]], [run["start_cpu_s"] for run in runs]
    wall = [s for run in runs for s in run["wall_s"]]
    return {
        "step_min": min(steps), "step_median": statistics.median(steps), "wall_median": statistics.median(wall),
        "start_min": min(starts), "start_median": statistics.median(starts), "peak_mb": min(r["peak_mb"] for r in runs),
    }  # fmt: skip


def _print(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """The table, as it goes into ``benchmarks/*.md``."""
    sides, images = result["sides"], options.batch * options.accumulate
    print(
        "| side | CPU s a step, min / median | ratio, min / median | images per wall s | start CPU s | peak MB | loss |"
    )
    print("|---|---|---|---|---|---|---|")
    for side, f in sides.items():
        peer = sides.get("peer", f)
        ratios = [peer[name] / f[name] for name in ("step_min", "step_median")]
        print(
            f"| {side} | {f['step_min']:.2f} / {f['step_median']:.2f} | {ratios[0]:.2f} / {ratios[1]:.2f} "
            f"| {images / f['wall_median']:.2f} | {f['start_min']:.1f} / {f['start_median']:.1f} | {f['peak_mb']:.0f} "
            f"| {result['mean_loss'][side]:.4f} |"
        )
    if {"peer", "cold", "warm"} <= sides.keys():
        told = []
        for name in ("step_min", "step_median"):
            peer, cold, warm = (sides[side][name] for side in ("peer", "cold", "warm"))
            told.append(f"{EPOCHS * peer / (cold + (EPOCHS - 1) * warm):.2f}")
        print(f"over {EPOCHS} epochs, the first of which fills the cache, by calculation: {' / '.join(told)}")
    print(f"filling the cache with all views beforehand: {result['filling_cpu_s']:.1f} CPU s, start-up included")
    verdict = "agree" if result["same_loss"] else "DISAGREE"
    print(f"losses over the same images {verdict}: standard error {result['noise_of_loss']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
