"""Does a training step cost more, or hold more memory, as the cache grows? From a hundred to a hundred thousand pairs.

``python -m benchmarks.scaling [--pairs 100 1000 10000 100000] [--steps 20] [--rounds 5]``

Each number of pairs gets a process of its own: a real cache on disk (both mirror images, 64 px), filled beforehand by
an encoder that costs nothing, then optimizer steps of a small UNet (``tiny`` in ``material.py``) on batches from it.
The processes take turns, a round at a time; CPU seconds a step are compared, and each one's peak memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ip2p_lightning  # noqa: F401
from benchmarks.material import write_checkpoint

SIDE, BATCH = 64, 8


class Numbers:
    """Pairs whose images are made from their number: a source that costs nothing to keep."""

    def __init__(self, count: int) -> None:
        self.count = count

    def pairs(self, split: str, make: Any = None) -> Numbers:
        """The same for every split."""
        return self

    def __len__(self) -> int:
        return self.count

    def id(self, i: int) -> str:
        """Its number."""
        return str(i)

    def prompt(self, i: int) -> None:
        """The task's prompts are drawn."""

    def pair(self, i: int, rng: np.random.Generator, view: Any) -> tuple[np.ndarray, np.ndarray]:
        """Two flat images."""
        image = np.full((SIDE, SIDE, 3), i % 256, np.uint8)
        original, edited = view([image, image], rng)
        return original, edited

    def sources(self, i: int) -> tuple[bytes]:
        """What the cache's key is made from."""
        return (i.to_bytes(8, "big"),)


class Pooling:
    """An encoder that costs nothing: means over patches of 8 x 8."""

    channels, factor, scaling_factor, deterministic, model = 4, 8, 1.0, False, None

    def moments(self, x: torch.Tensor) -> torch.Tensor:
        """[B 3 H W] -> [B 8 h w]"""
        pooled = torch.nn.functional.avg_pool2d(x, self.factor)
        return torch.cat([pooled, pooled[:, :1], -pooled, -pooled[:, :1]], dim=1)

    def sample(self, moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """[B 8 h w], [B 4 h w] -> [B 4 h w]"""
        return moments[:, :4] + noise

    def mode(self, moments: torch.Tensor) -> torch.Tensor:
        """[B 8 h w] -> [B 4 h w]"""
        return moments[:, :4]

    def digest(self) -> str:
        """Always the same."""
        return "pooling"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "tiny", "tiny")
        sides = [_Side(Path(folder), checkpoint, count, options.steps) for count in options.pairs]
        per_step = [[side.round() for side in sides] for _ in range(options.rounds)]
        peaks = [side.end() for side in sides]
    table = [list(column) for column in zip(*per_step, strict=True)]
    best, middle = [min(column) for column in table], [statistics.median(column) for column in table]
    for row in zip(options.pairs, best, middle, peaks, strict=True):
        print(f"{row[0]:>9,} pairs: {row[1]:.4f} CPU s a step ({row[2]:.4f} median), peak {row[3]:.0f} MB")
    spread = {"best": max(best) / min(best) - 1, "median": max(middle) / min(middle) - 1}
    print(json.dumps({"spread": spread, "memory": max(peaks) - min(peaks), "steps": table}))


class _Side:
    """A process that takes a round of steps whenever it is asked to."""

    def __init__(self, folder: Path, checkpoint: Path, count: int, steps: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.mine, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, folder, checkpoint, count, steps))
        self.process.start()
        self.mine.recv()  # filled

    def round(self) -> float:
        """CPU seconds a step."""
        self.mine.send("go")
        return self.mine.recv()

    def end(self) -> float:
        """Peak memory in MB."""
        self.mine.send("end")
        peak = self.mine.recv()
        self.process.join()
        return peak


def _work(pipe: Any, folder: Path, checkpoint: Path, count: int, steps: int) -> None:
    torch.set_num_threads(1)
    from ip2p_lightning.data import EditDataModule, Loader, PromptPool

    loader = Loader(batch_size=BATCH, size=SIDE, crop="center", epoch_size=BATCH * steps)
    data = EditDataModule(Numbers(count), PromptPool(["a", "b", "c"]), loader=loader)
    _fill(folder / str(count), data)
    module = _module(checkpoint)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    pipe.send("ready")
    while pipe.recv() == "go":
        data.seed += 1  # another order: other entries than in the round before
        began = time.process_time()
        for batch in data.train_dataloader():
            module.loss(batch, module._keyed_draws(batch)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        pipe.send((time.process_time() - began) / steps)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _fill(folder: Path, data: Any) -> None:
    """By another process, so that what filling takes is not counted."""
    context = multiprocessing.get_context("fork")
    filling = context.Process(target=_fill_all, args=(folder, data))
    filling.start()
    filling.join()
    data.cache = _cache(folder, data).batches


def _cache(folder: Path, data: Any) -> Any:
    from ip2p_lightning.caching.setup import Cache, Settings

    return Cache(Settings(mode="disk", folder=folder), data, Pooling())


def _fill_all(folder: Path, data: Any) -> None:
    from ip2p_lightning.caching.everything import fill_all

    for _ in fill_all(_cache(folder, data), batch_size=256):
        pass


def _module(checkpoint: Path) -> Any:
    from ip2p_lightning.diffusion import DiffusionObjective, DiffusionSampler
    from ip2p_lightning.module import EditDiffusion
    from ip2p_lightning.networks import ClipText, load_unet

    parts = (load_unet(str(checkpoint)), Pooling(), ClipText(str(checkpoint)))
    return EditDiffusion(*parts, DiffusionObjective(), DiffusionSampler("ddim"), tasks=["edit"], ema=None).train()


if __name__ == "__main__":
    main()
