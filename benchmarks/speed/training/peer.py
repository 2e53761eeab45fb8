"""Ours against diffusers' training script, unmodified: same checkpoint, pairs, recipe; in turn, on one thread.

``python -m benchmarks.speed.training.peer train_instruct_pix2pix.py [--size small] [--rounds 3] [--steps 5]``

Micro-batches of ``--batch 2 --accumulate 4``; the sides with an 8 run those of ours as one batch of 8, for its memory.
"""

import itertools
import json
import math
import shutil
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.clock import cpu_seconds
from benchmarks.support.clocked import clocked
from benchmarks.support.command import CACHE, TRAIN, WORK, environment, options
from benchmarks.support.material import SIZES, write_checkpoint, write_pairs

# diffusers; ours with an empty cache, with a full one; and the same without accumulation: all of a step in one batch
SIDES = ["peer", "cold", "warm", "cold8", "warm8"]
EPOCHS = 24  # of the instruction-tuned SD experiment: 15,000 steps of 8 over 5,000 pairs
COLUMNS = {"original_image_column": "original_image", "edited_image_column": "edited_image"}
COLUMNS["edit_prompt_column"] = "edit_prompt"
NUMBERS = {"batch": 2, "accumulate": 4, "steps": 5, "rounds": 3}
HEAD = "| side | CPU s a step, min / median | ratio, min / median | images per wall s | start CPU s | peak MB | loss |"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and leave the numbers in ``WORK/result.json``."""
    asked = options(__doc__, words, peer=Path, size=tuple(SIZES), sides=SIDES, ema=True, work=WORK, **NUMBERS)
    write_checkpoint(asked.work / asked.size, asked.size)
    write_pairs(_pairs(asked), _images(asked) * asked.steps)
    filling = cpu_seconds(lambda: _fill(asked))
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in asked.sides}
    for number, side in itertools.product(range(asked.rounds), asked.sides):
        runs[side].append(_run(asked, side, number))
        print(f"round {number + 1}, {side}: {min(runs[side][-1]['cpu_s']):.2f} CPU s a step", flush=True)
    result = _result(asked, runs) | {"filling_cpu_s": filling}
    (asked.work / "result.json").write_text(json.dumps(result, indent=2, default=str))
    _print(asked, result)
    return 0 if result["same_loss"] else 1


def _images(asked: Namespace) -> int:
    return asked.batch * asked.accumulate


def _pairs(asked: Namespace) -> Path:
    return asked.work / f"pairs-{_images(asked) * asked.steps}"


def _peer(asked: Namespace, folder: Path, number: int) -> list[str]:
    words = {
        "pretrained_model_name_or_path": asked.work / asked.size, "dataset_name": _pairs(asked), **COLUMNS,
        "cache_dir": asked.work / "datasets", "output_dir": folder, "resolution": 256, "seed": number,
        "train_batch_size": asked.batch, "gradient_accumulation_steps": asked.accumulate,
        "max_train_steps": asked.steps, "learning_rate": 5e-5, "lr_scheduler": "constant", "lr_warmup_steps": 0,
        "conditioning_dropout_prob": 0.05, "checkpointing_steps": 10**6,
    }  # fmt: skip
    flat = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    return [str(asked.peer), *flat, "--random_flip", *(["--use_ema"] if asked.ema else [])]


def _ours(asked: Namespace, folder: Path, cache: Path, number: int, side: str) -> list[str]:
    batch, windows = (_images(asked), 1) if side.endswith("8") else (asked.batch, asked.accumulate)
    return [
        "model=local", f"model.path={asked.work / asked.size}", "data=built", f"data.root={_pairs(asked)}",
        "task=denoise", "trainer=cpu", f"trainer.max_steps={asked.steps}", f"loader.batch_size={batch}",
        f"trainer.accumulate_grad_batches={windows}", "loader.resize=null", "loader.crop=center",
        "model.channels_last=true", "val_every=0", "log_every=1", "save_every=1000000",
        f"model.ema={'0.9999' if asked.ema else 'null'}", "cache=disk", f"cache_dir={cache}", f"seed={number}",
        f"hydra.run.dir={folder}",
    ]  # fmt: skip


def _fill(asked: Namespace) -> None:
    """The full cache, made by ``ip2p-cache``, start-up included."""
    if any(side.startswith("warm") for side in asked.sides):
        shutil.rmtree(asked.work / "cache", ignore_errors=True)
        words = _ours(asked, asked.work / "filling", asked.work / "cache", 0, "warm")
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([sys.executable, "-m", CACHE, *words], check=True, env=environment(), **silent)


def _run(asked: Namespace, side: str, number: int) -> dict[str, Any]:
    """One training run in a process of its own."""
    folder = asked.work / f"run-{side}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cache, run = (folder if side.startswith("cold") else asked.work) / "cache", folder / "run"
    ours = [TRAIN, *_ours(asked, run, cache, number, side)]
    rows = clocked(_peer(asked, run, number) if side == "peer" else ours, folder / "log.txt")
    wall, cpu = ([b[kind] - a[kind] for a, b in itertools.pairwise(rows)] for kind in (0, 1))
    start = rows[0][1] - min(cpu)  # to the first step: everything before it, less one step
    losses = _peer_losses(run) if side == "peer" else _our_losses(run)
    return {"cpu_s": cpu, "wall_s": wall, "peak_mb": [rows[-1][2]], "start_cpu_s": [start], "losses": losses}


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


def _result(asked: Namespace, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each side's figures over all rounds, and whether the losses are one."""
    found = {side: [x for run in group for x in run["losses"]] for side, group in runs.items()}
    noise = math.sqrt(sum(statistics.variance(x) / len(x) for x in found.values()))
    means = {side: statistics.mean(x) for side, x in found.items()}
    return {
        "options": vars(asked), "sides": {side: _figures(group) for side, group in runs.items()}, "runs": runs,
        "mean_loss": means, "noise_of_loss": noise, "same_loss": max(means.values()) - min(means.values()) <= 4 * noise,
    }  # fmt: skip


def _figures(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Minimum and median of a side's steps and starts, and its least peak memory."""
    lists = {key: [s for run in runs for s in run[key]] for key in ("cpu_s", "wall_s", "start_cpu_s", "peak_mb")}
    return {key: [min(values), statistics.median(values)] for key, values in lists.items()}


def _print(asked: Namespace, result: dict[str, Any]) -> None:
    """The table, as it goes into ``benchmarks/results/``."""
    sides = result["sides"]
    print(f"{HEAD}\n|---|---|---|---|---|---|---|")
    for side, f in sides.items():
        ratios = [a / b for a, b in zip(sides.get("peer", f)["cpu_s"], f["cpu_s"], strict=True)]
        cells = ["{:.2f} / {:.2f}".format(*f["cpu_s"]), "{:.2f} / {:.2f}".format(*ratios)]
        cells += [f"{_images(asked) / f['wall_s'][1]:.2f}", "{:.1f} / {:.1f}".format(*f["start_cpu_s"])]
        print(f"| {side} | {' | '.join(cells)} | {f['peak_mb'][0]:.0f} | {result['mean_loss'][side]:.4f} |")
    for warm in {"warm", "warm8"} & sides.keys() if "peer" in sides else ():
        if first := sides.get(warm.replace("warm", "cold")):
            steps = zip(sides["peer"]["cpu_s"], first["cpu_s"], sides[warm]["cpu_s"], strict=True)
            told = [f"{EPOCHS * peer / (cold + (EPOCHS - 1) * later):.2f}" for peer, cold, later in steps]
            print(f"{warm} over {EPOCHS} epochs, a cold one first, by calculation: {' / '.join(told)}")
    print(f"filling the cache with all views beforehand: {result['filling_cpu_s']:.1f} CPU s, start-up included")
    print(f"losses over the same images agree: {result['same_loss']}, standard error {result['noise_of_loss']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
