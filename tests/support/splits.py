"""The same optimizer steps, divided into micro-batches and ranks in different ways, under a bare Trainer."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from ip2p_lightning.rng import place
from ip2p_lightning.training.callbacks.checkpointing import SafeCheckpointIO
from tests.support.models import bare_trainer
from tests.support.processes import PRELOAD

LIMIT = 240  # seconds
_forks = multiprocessing.get_context("forkserver")


class Split(NamedTuple):
    """How a step is divided."""

    batch: int
    accumulation: int
    world: int = 1


class Fit(NamedTuple):
    """What some steps saw and came to."""

    seen: dict[int, tuple[Any, ...]]  # by number of the example in the run: names, images, draws, loss
    moved: torch.Tensor  # what the steps added to the weights and to their average

    def losses(self, size: int) -> list[float]:
        """Mean loss of each step of `size` examples."""
        each = [self.seen[number][-1] for number in sorted(self.seen)]
        return [sum(each[i : i + size]) / size for i in range(0, len(each), size)]


class Recorder(Callback):
    """What each example was, and what was drawn for it; a checkpoint in the middle, as a run saves them."""

    def __init__(self, split: Split, folder: Path, middle: int) -> None:
        self.split, self.folder, self.middle, self.seen = split, folder, middle, {}

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        loss = pl_module.loss

        def recorded(batch: Any, draws: Any) -> torch.Tensor:
            losses = loss(batch, draws)
            first = place(pl_module.micro_step - 1, trainer.global_rank, trainer.world_size, self.split.batch)
            shown = batch.original  # of moments the mean: what a cache keeps of it
            shown = pl_module.autoencoder.mode(shown) if pl_module._is_encoded(shown) else shown
            for i in range(len(losses)):
                drawn = [x[i].contiguous().double().sum().item() for x in (shown, batch.edited, *draws)]
                names = batch.task[i], batch.id[i], batch.prompt[i]
                self.seen[first + i] = (*names, *drawn, losses[i].item())
            return losses

        pl_module.loss = recorded

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.middle and not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(self.folder / "middle.ckpt")


def flat(module: Any) -> torch.Tensor:
    """All that is trained and its average, in double precision."""
    return torch.cat([p.detach().double().flatten() for p in (*module._trained(), *module.ema.shadow_params)])


@contextlib.contextmanager
def doubled(wanted: bool) -> Iterator[None]:
    """All arithmetic in float64, also where the code asks for float32."""
    if not wanted:
        yield
        return
    single = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = single


def fit(
    split: Split, words: tuple[str, ...], steps: int, folder: Path, begin: str | None = None, double: bool = False
) -> Fit:
    """Train to step `steps`, from the checkpoint `begin` if one is given; half-way leave ``folder/middle.ckpt``."""
    folder.mkdir(parents=True, exist_ok=True)
    if split.world == 1:
        _fit(split, words, steps, folder, begin, double, {})
    else:
        _together(split, words, steps, folder, begin, double)
    parts = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(split.world)]
    return Fit({n: s for part in parts for n, s in part[0].items()}, parts[0][1])


def _together(split: Split, *args: Any) -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    _forks.set_forkserver_preload(PRELOAD)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(split.world), "NODE_RANK": "0"}
    groups = [group | {"LOCAL_RANK": str(rank)} for rank in range(split.world)]
    ranks = [_forks.Process(target=_fit, args=(split, *args, of_rank)) for of_rank in groups]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(LIMIT)
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0] * split.world


def _fit(split: Split, words: Any, steps: int, folder: Path, begin: Any, double: bool, group: dict[str, str]) -> None:
    from ip2p_lightning.config import build
    from ip2p_lightning.data.latent_cache.cache import cached
    from tests.support.configs import config_of

    os.environ.update(group)
    torch.set_num_threads(1)
    config = config_of(*words, f"loader.batch_size={split.batch}")
    with doubled(double):
        module, data = build.build_module(config), build.build_data(config)
        cached(config, data, module.autoencoder)
        recorder = Recorder(split, folder, steps // 2)
        module = module.double() if double else module
        before = flat(module)
        strategy = DDPStrategy(process_group_backend="gloo", broadcast_buffers=False) if group else "auto"
        plugins = [SafeCheckpointIO(), *([LightningEnvironment()] if group else [])]
        trainer = bare_trainer(
            devices=split.world,
            strategy=strategy,
            plugins=plugins,
            max_steps=steps,
            accumulate_grad_batches=split.accumulation,
            gradient_clip_val=1.0,
            callbacks=[recorder],
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        trainer.fit(module, datamodule=data, ckpt_path=begin)
    torch.save((recorder.seen, flat(module) - before), folder / f"{trainer.global_rank}.pt")
