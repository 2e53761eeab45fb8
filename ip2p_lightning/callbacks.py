"""What is logged: losses per task and noise quartile, validation against the identity edit, image grids, progress."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ip2p_lightning.meters import WorkMeter
from ip2p_lightning.rng import seed_of
from ip2p_lightning.system.files import append_line


class JsonLines(Logger):
    """One JSON object a line, appended: readable while the run goes on, whatever happens to TensorBoard's file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = Path(path)

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        append_line(self.path, {"step": step, **{k: float(v) for k, v in metrics.items() if k != "epoch"}})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config lies beside the metrics already."""


class LossLog(Callback):
    """Loss in total, per task and per quartile of the noise range; learning rate, gradient norm, images/s.

    Sums stay on the device; they are read every `every` optimizer steps, so that logging does not stop the GPU.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.sums: Tensor | None = None
        self.images, self.since, self.logged_step = 0, time.perf_counter(), 0
        self.waited, self.ended = 0.0, self.since
        self.work: WorkMeter | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.since, self.logged_step = time.perf_counter(), trainer.global_step
        self.work = WorkMeter(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.waited += time.perf_counter() - self.ended

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.ended = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        now = time.perf_counter()
        self.since, self.ended = self.since + now - self.ended, now  # validation is not training

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
        metrics = {"train/loss": float(sums[:tasks].sum() / counts[:tasks].sum())}
        names = [*(f"task/{name}" for name in module.tasks or ["all"]), *(f"noise/q{i + 1}" for i in range(4))]
        metrics |= {f"train/loss/{n}": float(s / c) for n, s, c in zip(names, sums, counts, strict=True) if c > 0}
        metrics["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        metrics["train/grad_norm"] = float(module.grad_norm)
        metrics["train/images_per_s"] = self.images * trainer.world_size / (now - self.since)
        metrics["train/data_wait"] = self.waited / (now - self.since)
        if self.work is not None:
            metrics |= self.work.rates(self.images / (now - self.since))
        metrics["train/skipped_steps"] = module.skipped
        metrics["train/peak_memory_mb"] = peak_memory_mb(module.device)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)
        self.last = metrics
        self.sums.zero_()
        self.images, self.since, self.logged_step = 0, now, trainer.global_step
        self.waited = 0.0


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has held so far: on its GPU, or of the machine's where it trains on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class Progress(ProgressBar):
    """One bar over the run's optimizer steps, with loss, images/s and time left; off a terminal, twice a minute."""

    def __init__(self, losses: LossLog) -> None:
        super().__init__()
        self.losses, self.bar = losses, None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from tqdm.auto import tqdm

        if self._enabled and trainer.is_global_zero:
            pause = 1 if sys.stderr.isatty() else 30  # seconds: a log file is read later, not watched
            done = {"total": trainer.max_steps, "initial": trainer.global_step}
            self.bar = tqdm(**done, unit="step", desc="train", mininterval=pause, maxinterval=pause)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if self.bar is None:
            return
        metrics = getattr(self.losses, "last", None)
        if metrics:
            text = f"loss {metrics['train/loss']:.4f}, {metrics['train/images_per_s']:.1f} images/s"
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class ValidationScores(Callback):
    """PSNR and SSIM per task, for the averaged model and for the identity edit: sums over all examples and ranks.

    They are logged when a validation is over, grids and all: a step that has scores in the log was wholly validated.
    """

    NAMES = ("psnr", "ssim", "psnr_identity", "ssim_identity")

    def __init__(self) -> None:
        self.swap: Any = None
        self.latest: dict[str, float] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        # float64: sums over any number of ranks then agree to 1e-6 dB
        shape = (len(self.NAMES) + 1, max(1, len(pl_module.tasks)))
        self.sums = torch.zeros(shape, dtype=torch.float64, device=pl_module.device)
        self.swap = pl_module.averaged()
        self.swap.__enter__()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        for row, name in enumerate(self.NAMES):
            self.sums[row].index_add_(0, outputs["task"], outputs[name].double())
        self.sums[-1].index_add_(0, outputs["task"], torch.ones_like(outputs["psnr"], dtype=torch.float64))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        sums = pl_module._sum_over_ranks(self.sums).cpu()
        tasks = pl_module.tasks or ["all"]
        metrics = {
            f"val/{name}/{task}": float(sums[row, i] / sums[-1, i])
            for row, name in enumerate(self.NAMES)
            for i, task in enumerate(tasks)
            if sums[-1, i] > 0
        }
        for name in self.NAMES:
            values = [v for key, v in metrics.items() if key.startswith(f"val/{name}/")]
            if values:
                metrics[f"val/{name}"] = sum(values) / len(values)
        self.latest = metrics

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._restore()
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, trainer.global_step)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        if self.swap is not None:
            self.swap.__exit__(None, None, None)
            self.swap = None


class ImageGrids(Callback):
    """[original | edit | ground truth] with the prompt, for the same examples each time: TensorBoard and PNG."""

    def __init__(self, folder: Path, examples: list[Any]) -> None:
        self.folder, self.examples = Path(folder), examples

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not self.examples:
            return
        import numpy as np

        from ip2p_lightning.data.contact_sheet import contact_sheet, to_pixels

        rows = []
        for example in self.examples:
            original = example.original[None].to(pl_module.device)
            with trainer.precision_plugin.forward_context():  # as Lightning runs validation_step, but not callbacks
                edit = pl_module.edit(original, [example.prompt], [seed_of(pl_module.seed, "grid", example.id)])
            cells = [to_pixels(x) for x in (example.original, edit[0], example.edited)]
            rows.append((f"{example.task}: {example.prompt}", cells))
        sheet = contact_sheet(["original", "edit", "ground truth"], rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        sheet.save(self.folder / f"step-{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            board = getattr(logger, "experiment", None)
            if hasattr(board, "add_image"):
                board.add_image("val/grid", np.asarray(sheet), trainer.global_step, dataformats="HWC")
