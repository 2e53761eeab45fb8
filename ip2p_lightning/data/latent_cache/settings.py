"""The settings of a cache, read from a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """What a run caches, and how.

    mode: off; disk; auto: disk where pairs are real files, encoding costs something, and every entry is expected to be
        used more than once.
    folder: of all caches on disk.
    variants: crops stored of each pair where crops are drawn; mirror images come on top.
    draws: stored degradations of each photo; 0: each is drawn when needed, and none is stored.
    dtype: float32, or bfloat16: half the size, moments rounded to 8 bits of mantissa (relative error at most 2^-8).
    precision: in which the machine multiplies matrices of float32, as the run's ``matmul_precision``.
    """

    mode: Literal["off", "disk", "auto"] = "auto"
    folder: Path = Path("runs/cache")
    variants: int = 4
    draws: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    precision: str = "highest"


def settings_of(config: Mapping[str, Any]) -> Settings:
    """The settings in a checked config."""
    return Settings(
        config.get("cache", "off"),
        Path(config.get("cache_dir", "runs/cache")),
        config.get("cache_variants", 4),
        config.get("cache_draws", 0),
        config.get("cache_dtype", "float32"),
        config.get("matmul_precision", "highest"),
    )


def samples_of(config: Mapping[str, Any], ranks: int) -> int:
    """Examples that a run sees on all its ranks."""
    trainer = config["trainer"]
    return trainer["max_steps"] * trainer.get("accumulate_grad_batches", 1) * config["loader"]["batch_size"] * ranks
