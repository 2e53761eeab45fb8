"""Optimizer steps of a run as ``ip2p-train WORDS`` takes them: its loader and cache, its module, its optimizer.

Without Lightning's loop around them, so that two runs can take turns in one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from benchmarks.builder import make_pairs
from benchmarks.safety_cost import config_of
from ip2p_lightning.config import build
from ip2p_lightning.data.example import EditExample
from ip2p_lightning.data.latent_cache.cache import cached
from ip2p_lightning.training.module import EditDiffusion

PAIRS, SIDE = 8, 128  # pixels; a step sees every pair once
PLAIN = ["cache=off", "optimizer.fused=false", "model.channels_last=false"]
# and optimizer=adamw as it comes
OURS = ["cache=disk", "loader.batch_size=8", "trainer.accumulate_grad_batches=1", "model.channels_last=true"]


class Run:
    """The steps of one run.

    Args:
        words: of its command line.
    """

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


def both(folder: Path, checkpoint: Path) -> tuple[Run, Run]:
    """The plain run and ours on the same pairs, whose steps are the same but for rounding."""
    pairs = folder / "step-pairs"
    make_pairs(pairs, PAIRS, SIDE)
    words = [
        "model=local",
        f"model.path={checkpoint}",
        "data=folder",
        f"data.root={pairs}",
        "data.val=0",
        "data.test=0",
    ]
    words += ["task=own", "task.flip=0", f"loader.size={SIDE}", "loader.resize=null", "loader.crop=center"]
    words += ["loader.batch_size=2", "trainer.accumulate_grad_batches=4", "model.ema=null"]
    words += [f"cache_dir={folder / 'step-cache'}"]
    return Run([*words, *PLAIN]), Run([*words, *OURS])
