"""The top level of a config: every key of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class TrainConfig:
    """The top level of a config: every key a run takes (the comments in ``conf/train.yaml`` say what each is)."""

    prompts: dict[str, Any]
    unet: dict[str, Any]
    autoencoder: dict[str, Any]
    text_encoder: dict[str, Any]
    sampler: dict[str, Any]
    objective: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    data: dict[str, Any]
    task: dict[str, Any]
    loader: dict[str, Any]
    model: dict[str, Any]
    trainer: dict[str, Any]
    callbacks: dict[str, Any] | None = None
    logger: dict[str, Any] | None = None
    seed: int = 0
    val_every: int = 200
    val_examples: int | None = 4
    save_every: int = 200
    keep: int = 2
    log_every: int = 10
    max_skips: int = 3
    resume: Literal["auto", "never"] = "auto"
    resume_allow: list[str] = field(default_factory=list)
    dry_run: bool = False
    cache: Literal["off", "disk", "auto"] = "off"
    cache_dir: str = "runs/cache"
    cache_variants: int = 4
    cache_draws: int = 0
    cache_dtype: Literal["float32", "bfloat16"] = "float32"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    timeout: int = 600
