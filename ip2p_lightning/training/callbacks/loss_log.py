"""Losses per task and noise quartile."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from ip2p_lightning.training.callbacks.throughput import WorkMeter


class LossLog(Callback):
    """Loss in total, per task and per quartile of the noise range; learning rate, gradient norm, images/s.

    Sums stay on the device and are read every `every` optimizer steps, so that logging does not stall the GPU.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.sums: Any = None
        self.last: dict[str, float] = {}
        self.images, self.since, self.logged_step = 0, time.perf_counter(), 0
        self.waited, self.ended = 0.0, self.since

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.since, self.logged_step = time.perf_counter(), trainer.global_step
        self.work = WorkMeter(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.waited += time.perf_counter() - self.ended

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.ended = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        now = time.perf_counter()
        self.since, self.ended = self.since + now - self.ended, now  # exclude validation from the training time

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = pl_module.last_losses
        tasks = max(1, len(pl_module.tasks))
        if self.sums is None:
            self.sums = torch.zeros(2, tasks + 4, device=pl_module.device)  # sums and counts: tasks, then quartiles
        loss, one = last["loss"].float(), torch.ones_like(last["loss"], dtype=torch.float32)
        for place in (last["task"], tasks + pl_module.objective.quartile(last["t"])):
            self.sums[0].index_add_(0, place, loss)
            self.sums[1].index_add_(0, place, one)
        self.images += len(loss)
        if trainer.global_step - self.logged_step >= self.every:
            self._log(trainer, pl_module, tasks)
        self.ended = time.perf_counter()

    def _log(self, trainer: Trainer, module: Any, tasks: int) -> None:
        sums, counts = module._sum_over_ranks(self.sums).cpu()
        now = time.perf_counter()
        seconds = now - self.since
        metrics = {"train/loss": float(sums[:tasks].sum() / counts[:tasks].sum())}
        names = [*(f"task/{name}" for name in module.tasks or ["all"]), *(f"noise/q{i + 1}" for i in range(4))]
        metrics |= {f"train/loss/{n}": float(s / c) for n, s, c in zip(names, sums, counts, strict=True) if c > 0}
        metrics |= {
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/grad_norm": float(module.grad_norm),
            "train/images_per_s": self.images * trainer.world_size / seconds,
            "train/data_wait": self.waited / seconds,
            **self.work.rates(self.images / seconds),
            "train/skipped_steps": module.guard.skipped,
            "train/peak_memory_mb": peak_memory_mb(module.device),
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
        self.last = metrics
        self.sums.zero_()
        self.images, self.waited, self.since, self.logged_step = 0, 0.0, now, trainer.global_step


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of this process so far, MiB: on its GPU, or resident where it trains on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
