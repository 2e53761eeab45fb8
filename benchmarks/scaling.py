"""Does a training step cost more, or hold more memory, as the cache grows? From a hundred to a hundred thousand pairs.

``python -m benchmarks.scaling [--pairs 100 1000 10000 100000] [--steps 200]``

For each number of pairs a real cache on disk (both mirror images, 64 px), filled by an encoder that costs nothing.
Time: one process, one small UNet (``tiny`` in ``material.py``), its optimizer steps on batches of each cache
in turn, in CPU seconds. (Processes that do the same work differ by some per cent, with the places of their memory.)
Peak memory: a process of its own for each number, of a few steps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ip2p_lightning  # noqa: F401
from benchmarks.material import write_checkpoint

SIDE, BATCH, WARM_UP = 64, 8, 10


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
    version = 1

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
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps counted for each number")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "tiny", "tiny")
        peaks = [_apart(_measured, Path(folder), checkpoint, [count], WARM_UP)[1] for count in options.pairs]
        rows, _ = _apart(_measured, Path(folder), checkpoint, options.pairs, options.steps)
    print("| pairs | CPU s a step, least | median | of which its batch, ms | peak, MB |\n|---|---|---|---|---|")
    steps, making = (np.array(rows)[:, :, kind] for kind in (0, 1))  # [steps, numbers of pairs]
    for row in zip(options.pairs, steps.min(0), np.median(steps, 0), 1000 * np.median(making, 0), peaks, strict=True):
        print("| {:,} | {:.4f} | {:.4f} | {:.2f} | {:.0f} |".format(*row))
    spread = {
        name: of(steps, 0).max() / of(steps, 0).min() - 1 for name, of in (("min", np.min), ("median", np.median))
    }
    print(json.dumps({"spread": spread, "memory": max(peaks) - min(peaks)}))


def _apart(work: Any, *arguments: Any) -> Any:
    """What a function returns, called in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _measured(folder: Path, checkpoint: Path, pairs: list[int], steps: int) -> tuple[list[list[Any]], float]:
    """CPU seconds of each step, and those that making its batch took, by number of pairs; and the peak in MB."""
    torch.set_num_threads(1)
    loaders = [_loader(folder, count, WARM_UP + steps) for count in pairs]
    module = _module(checkpoint)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    rows: list[list[Any]] = []
    for number in range(WARM_UP + steps):
        row: list[Any] = [None] * len(pairs)
        for place in range(len(pairs)):  # another one first in each step
            one = (place + number) % len(pairs)
            row[one] = _step(loaders[one], module, optimizer)
        rows.append(row)
    return rows[WARM_UP:], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _step(batches: Any, module: Any, optimizer: Any) -> tuple[float, float]:
    began = time.process_time()
    batch = next(batches)
    made = time.process_time()
    module.loss(batch, module._keyed_draws(batch)).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - began, made - began


def _loader(folder: Path, count: int, steps: int) -> Any:
    from ip2p_lightning.data import EditDataModule, Loader, PromptPool

    loader = Loader(batch_size=BATCH, size=SIDE, crop="center", epoch_size=BATCH * steps)
    data = EditDataModule(Numbers(count), PromptPool(["a", "b", "c"]), loader=loader)
    _fill(folder / str(count), data)
    return iter(data.train_dataloader())


def _fill(folder: Path, data: Any) -> None:
    """By another process, so that what filling takes is not counted."""
    context = multiprocessing.get_context("fork")
    filling = context.Process(target=_fill_all, args=(folder, data))
    filling.start()
    filling.join()
    data.cache = _cache(folder, data).batches


def _cache(folder: Path, data: Any) -> Any:
    from ip2p_lightning.data.latent_cache.cache import Cache, Settings

    return Cache(Settings(mode="disk", folder=folder), data, Pooling())


def _fill_all(folder: Path, data: Any) -> None:
    from ip2p_lightning.data import Loader
    from ip2p_lightning.data.latent_cache.fill import fill_all

    for _ in fill_all(_cache(folder, data), Loader(batch_size=256)):
        pass


def _module(checkpoint: Path) -> Any:
    from ip2p_lightning.diffusion import DiffusionObjective, DiffusionSampler
    from ip2p_lightning.networks import ClipText, load_unet
    from ip2p_lightning.training.module import EditDiffusion

    parts = (load_unet(str(checkpoint)), Pooling(), ClipText(str(checkpoint)))
    return EditDiffusion(*parts, DiffusionObjective(), DiffusionSampler("ddim"), tasks=["edit"], ema=None).train()


if __name__ == "__main__":
    main()
