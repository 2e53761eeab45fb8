"""Checks the ranges of numbers before anything is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ip2p_lightning.config.walk import scalars
from ip2p_lightning.errors import UserError

# Limits of numbers that are not null; a list's are those of each of its items.
_AT_LEAST = {
    "cache_draws": 0,
    "cache_variants": 1,
    "callbacks.image_grids.examples": 0,
    "callbacks.profiler.steps": 1,
    "keep": 2,
    "log_every": 1,
    "max_skips": 0,
    "optimizer.betas": 0,
    "optimizer.eps": 0,
    "optimizer.weight_decay": 0,
    "save_every": 1,
    "timeout": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": 0,
    "trainer.max_steps": 1,
    "unet.lora.dropout": 0,
    "unet.lora.rank": 1,
    "val_every": 0,
    "val_examples": 1,
}
_ABOVE = {"optimizer.lr": 0, "unet.lora.alpha": 0}
_AT_MOST = {"callbacks.image_grids.examples": 100}  # of each task: a larger picture is more than readers take
_BELOW = {"optimizer.betas": 1, "unet.lora.dropout": 1}


def in_range(config: Mapping[str, Any]) -> None:
    """Raise UserError for a number of `config` that is not finite, or out of its range; types have been checked."""
    for path, value in scalars(config):
        if isinstance(value, int | float):
            wanted = _wanted(re.sub(r"\[\d+\]$", "", path), value)
            if wanted:
                raise UserError(f"{path}={value}: give {wanted}")


def _wanted(key: str, value: float) -> str:
    """The allowed range of a number that is outside of it, else \"\"."""
    if not math.isfinite(value):
        return "a finite number"
    if value < _AT_LEAST.get(key, value):
        return f"{_AT_LEAST[key]} or more"
    if value > _AT_MOST.get(key, value):
        return f"{_AT_MOST[key]} or less"
    if value <= _ABOVE.get(key, -math.inf):
        return f"a number above {_ABOVE[key]}"
    return f"a number below {_BELOW[key]}" if value >= _BELOW.get(key, math.inf) else ""
