"""Does a training step cost more, or hold more memory, as the cache grows? From a hundred to a hundred thousand pairs.

``python -m benchmarks.speed.latent_cache [--pairs 100 1000 10000 100000] [--steps 200]``

For each number of pairs a real cache on disk (both mirror images, 64 px), filled by an encoder that costs nothing.
Time: one process, one small UNet (``tiny`` in ``material.py``), its optimizer steps on batches of each cache
in turn, in CPU seconds. (Processes that do the same work differ by some per cent, with the places of their memory.)
Peak memory: a process of its own for each number, of a few steps.
"""

import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from benchmarks.support.command import options
from benchmarks.support.material import write_checkpoint
from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.datamodules import EditDataModule
from ip2p_lightning.data.latent_cache.cache import Cache, Settings
from ip2p_lightning.data.latent_cache.fill import fill_all
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.diffusion.objective import DiffusionObjective
from ip2p_lightning.diffusion.samplers import DiffusionSampler
from ip2p_lightning.networks.text_encoder import ClipText
from ip2p_lightning.networks.unet import load_unet
from ip2p_lightning.training.module import EditDiffusion

SIDE, BATCH, WARM_UP = 64, 8, 10


class _Numbers(list):
    """A source that costs nothing to keep: two flat images for each number."""

    def pairs(self, split: str, make: Any = None) -> Self:
        return self

    def id(self, i: int) -> str:
        return str(i)

    def prompt(self, i: int) -> None:
        """The task's prompts are drawn."""

    def pair(self, i: int, rng: np.random.Generator, view: Any) -> tuple[np.ndarray, np.ndarray]:
        image = np.full((SIDE, SIDE, 3), i % 256, np.uint8)
        return tuple(view([image, image], rng))

    def sources(self, i: int) -> tuple[bytes]:
        return (i.to_bytes(8, "big"),)


class _Pooling:
    """An encoder that costs nothing: means over patches of 8 x 8."""

    channels, factor, scaling_factor, deterministic, model = 4, 8, 1.0, False, None
    version = 1

    def moments(self, x: torch.Tensor) -> torch.Tensor:  # [B 3 H W] -> [B 8 h w]
        pooled = torch.nn.functional.avg_pool2d(x, self.factor)
        return torch.cat([pooled, pooled[:, :1], -pooled, -pooled[:, :1]], dim=1)

    def sample(self, moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return moments[:, :4] + noise

    def mode(self, moments: torch.Tensor) -> torch.Tensor:
        return moments[:, :4]

    def digest(self) -> str:
        return "pooling"


def main() -> None:
    """Measure and print."""
    asked = options(__doc__, pairs=[100, 1_000, 10_000, 100_000], steps=200)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "tiny", "tiny")
        peaks = [_apart(_measured, folder, [count], WARM_UP)[1] for count in asked.pairs]
        rows, _ = _apart(_measured, folder, asked.pairs, asked.steps)
    print("| pairs | CPU s a step, least | median | of which its batch, ms | peak, MB |\n|---|---|---|---|---|")
    steps, making = (np.array(rows)[:, :, kind] for kind in (0, 1))  # [steps, numbers of pairs]
    least, median = steps.min(0), np.median(steps, 0)
    for row in zip(asked.pairs, least, median, 1000 * np.median(making, 0), peaks, strict=True):
        print("| {:,} | {:.4f} | {:.4f} | {:.2f} | {:.0f} |".format(*row))
    spread = {name: x.max() / x.min() - 1 for name, x in (("min", least), ("median", median))}
    print(json.dumps({"spread": spread, "memory": max(peaks) - min(peaks)}))


def _apart(work: Any, *arguments: Any) -> Any:
    """What a function returns, called in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _measured(folder: Path, pairs: list[int], steps: int) -> tuple[list[list[Any]], float]:
    """CPU seconds of each step, and those that making its batch took, by number of pairs; and the peak in MB."""
    torch.set_num_threads(1)
    loaders = [_loader(folder, count, WARM_UP + steps) for count in pairs]
    path = str(folder / "tiny")
    parts = (load_unet(path), _Pooling(), ClipText(path), DiffusionObjective(), DiffusionSampler("ddim"))
    module = EditDiffusion(*parts, tasks=["edit"], ema=None).train()
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    rows: list[list[Any]] = [[None] * len(pairs) for _ in range(WARM_UP + steps)]
    for number, row in enumerate(rows):
        for one in np.roll(range(len(pairs)), number):  # another one first in each step
            row[one] = _step(loaders[one], module, optimizer)
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
    loader = Loader(batch_size=BATCH, size=SIDE, crop="center", epoch_size=BATCH * steps)
    data = EditDataModule(_Numbers(range(count)), PromptPool(["a", "b", "c"]), loader=loader)
    filling = multiprocessing.get_context("fork").Process(target=_fill, args=(folder / str(count), data))
    filling.start()  # another process, so that what filling takes is not counted
    filling.join()
    data.cache = _cache(folder / str(count), data).batches
    return iter(data.train_dataloader())


def _cache(folder: Path, data: Any) -> Any:
    return Cache(Settings(mode="disk", folder=folder), data, _Pooling())


def _fill(folder: Path, data: Any) -> None:
    for _ in fill_all(_cache(folder, data), Loader(batch_size=256)):
        pass


if __name__ == "__main__":
    main()
