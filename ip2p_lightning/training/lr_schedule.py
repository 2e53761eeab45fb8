"""The learning rate over a run."""

from __future__ import annotations

import math
from typing import Literal

from ip2p_lightning.errors import UserError


class LearningRate:
    """A factor on the learning rate: linear warm-up, then constant or a cosine to zero (Loshchilov & Hutter 2017).

    `shape` is what comes after the warm-up of `warmup` optimizer steps.
    """

    def __init__(self, shape: Literal["constant", "cosine"] = "constant", warmup: int = 0) -> None:
        if warmup < 0:
            raise UserError(f"schedule.warmup={warmup} is negative; give optimizer steps, 0 or more")
        self.shape, self.warmup = shape, warmup

    def factor(self, step: int, total: int) -> float:
        """The factor at optimizer step `step` of `total`."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.shape == "constant":
            return 1.0
        done = (step - self.warmup) / max(1, total - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
