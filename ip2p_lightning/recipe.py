"""A whole config as objects: its top level, and the module and the data that it describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ip2p_lightning.config import build, check, plain
from ip2p_lightning.errors import UserError
from ip2p_lightning.ranges import in_range
from ip2p_lightning.rules import contradictions, parts_fit
from ip2p_lightning.step_rules import step_contradictions


@dataclass(frozen=True)
class Recipe:
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
    seed: int = 0
    val_every: int = 200
    val_examples: int | None = 4
    grid_examples: int = 3
    save_every: int = 200
    keep: int = 2
    log_every: int = 10
    log_samples: bool = False
    max_skips: int = 3
    resume: str = "auto"
    resume_allow: list[str] = field(default_factory=list)
    dry_run: bool = False
    cache: str = "off"
    cache_dir: str = "runs/cache"
    cache_variants: int = 4
    cache_draws: int = 0
    cache_dtype: str = "float32"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    profile_steps: int = 0
    fault: str | None = None
    timeout: int = 600


def build_module(config: Mapping[str, Any]) -> Any:
    """The LightningModule of a checked config; the weights' random start depends on ``seed`` alone."""
    import torch

    from ip2p_lightning.rng import seed_of

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config["seed"], "weights"))
        parts = {name: build(config[name]) for name in ("unet", "autoencoder", "text_encoder", "objective", "sampler")}
    make = build(config["model"])
    return make(
        **parts,
        optimizer=build(config["optimizer"]),
        schedule=build(config["schedule"]),
        tasks=task_names(config),
        seed=config["seed"],
        max_skips=config["max_skips"],
    )


def build_data(config: Mapping[str, Any]) -> Any:
    """The LightningDataModule of a checked config."""
    return build(config["task"])


def places(config: Mapping[str, Any]) -> str:
    """A line about the folders that a checked config's weights are to be read from, before any of them is.

    Raises:
        UserError: one is not there.
    """
    from ip2p_lightning.networks.pretrained import is_local, missing

    found: dict[str, bool] = {}
    for name, usual in (("unet", "unet"), ("autoencoder", "vae"), ("text_encoder", "text_encoder")):
        path, subfolder = config[name].get("path"), config[name].get("subfolder", usual)
        if path is None:  # random weights
            continue
        found[path] = is_local(path, subfolder)
        if found[path] and not (Path(path).expanduser() / (subfolder or "")).is_dir():
            raise UserError(missing(path, subfolder))
    told = [
        f"{path} {'is here' if here else 'is of the hub, which was not asked for it'}" for path, here in found.items()
    ]
    return f"weights: {'; '.join(told) or 'random'}"


def task_names(config: Mapping[str, Any]) -> list[str]:
    """The tasks a config trains, in order."""
    task = config["task"]
    if "tasks" in task:
        return [name for name in task["tasks"] if (task.get("weights") or {}).get(name, 1) != 0]
    return [task["name"]]


def checked(composed: Any) -> dict[str, Any]:
    """The composed config as plain data, held against signatures and rules. Raises UserError and its kin."""
    config = plain(composed)
    parts_fit(config)
    check(config, Recipe)
    in_range(config)
    contradictions(config)
    step_contradictions(config)
    return config
