"""Optimizer steps of a run as ``ip2p-train WORDS`` takes them: its loader and cache, its module, its optimizer.

Without Lightning's loop around them, so that two runs can take turns in one process.
"""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from benchmarks.support.command import config_of
from benchmarks.support.material import write_raw_pairs
from ip2p_lightning.config import build
from ip2p_lightning.data.example import EditExample
from ip2p_lightning.data.latent_cache.cache import cached
from ip2p_lightning.training.module import EditDiffusion

PAIRS, SIDE = 8, 128  # a step; pixels
PLAIN = ["cache=off", "optimizer.fused=false", "model.channels_last=false"]
OURS = ["cache=disk", "model.channels_last=true"]  # and optimizer=adamw as it comes


class Run:
    """The steps of the run of a command line."""

    def __init__(self, words: list[str]) -> None:
        config = config_of(words)
        self.data = build.build_data(config)
        self.data.setup("fit")
        self.module = build.build_module(config).train()
        self.module.setup("fit")
        cached(config, self.data, self.module.autoencoder)
        self.optimizer = self.module.optimizer([p for p in self.module.parameters() if p.requires_grad])
        self.clip = config["trainer"]["gradient_clip_val"]
        self.parts = config["trainer"]["accumulate_grad_batches"]
        self.batches, self.micro_step = self._endless(), 0

    def _endless(self) -> Iterator[EditExample]:
        loader = self.data.train_dataloader()
        while True:
            yield from loader

    def step(self) -> None:
        """All micro-batches of a step, forward and backward, and the weights' update; the first fills the cache."""
        for _ in range(self.parts):
            self.micro_step += 1
            with mock.patch.object(EditDiffusion, "micro_step", self.micro_step):  # Lightning's loop would count it
                (self.module.training_step(next(self.batches), 0) / self.parts).backward()
        self.module.configure_gradient_clipping(self.optimizer, self.clip)
        self.module.optimizer_step(0, 0, self.optimizer, lambda: None)


def on_pairs(work: Path, side: int, batch: int, windows: int) -> list[str]:
    """Words for steps that see `batch` x `windows` pairs, each of them once, as they are."""
    count = batch * windows
    pairs = write_raw_pairs(work / f"pairs-{count}-{side}", count, side)
    words = ["data=folder", f"data.root={pairs}", "data.val=0", "data.test=0", "task=own", "task.flip=0"]
    words += [
        "task.prompts.prompts=[edit the image]",
        f"loader.size={side}",
        "loader.resize=null",
        "loader.crop=center",
        "model.ema=null",
    ]
    return [*words, f"loader.batch_size={batch}", f"trainer.accumulate_grad_batches={windows}"]


def both(folder: Path, checkpoint: Path, batch: int) -> tuple[Run, Run]:
    """The plain run and ours on the same pairs, `batch` a micro-batch, whose steps are the same but for rounding."""
    words = ["model=local", f"model.path={checkpoint}", f"cache_dir={folder / 'step-cache'}"]
    words += on_pairs(folder, SIDE, batch, PAIRS // batch)
    return Run([*words, *PLAIN]), Run([*words, *OURS])
