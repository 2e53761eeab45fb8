"""Builds the objects that a checked config describes: the LightningModule and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.config.allowed_targets import built
from ip2p_lightning.config.checkpoint_scheduler import honoured
from ip2p_lightning.config.compose import plain
from ip2p_lightning.config.rules.base import apply_rules
from ip2p_lightning.config.rules.contradictions import VALUES
from ip2p_lightning.config.rules.incompatible_parts import PARTS
from ip2p_lightning.config.rules.out_of_range import in_range
from ip2p_lightning.config.train_config import TrainConfig
from ip2p_lightning.config.validate import check
from ip2p_lightning.system.file_digests import MEMO, remember_digests


def build_without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a checked config without weights. Raises UserError for values that their constructors refuse."""
    return {name: build(config[name]) for name in ("objective", "sampler", "schedule")}


def build_module(config: Mapping[str, Any]) -> Any:
    """The LightningModule of a checked config; its initial weights depend on ``seed`` alone."""
    import torch

    from ip2p_lightning.rng import seed_of

    parts = build_without_weights(config)  # fails before any weights are loaded
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config["seed"], "weights"))
        parts |= {name: build(config[name]) for name in ("unet", "autoencoder", "text_encoder")}
    return build(config["model"])(
        **parts,
        optimizer=build(config["optimizer"]),
        tasks=task_names(config),
        seed=config["seed"],
        max_skips=config["max_skips"],
    )


def build_data(config: Mapping[str, Any], remember: bool = False) -> Any:
    """The LightningDataModule of a checked config.

    What is known of its files is read from the config's ``cache_dir``, and added there if there is any or `remember`.
    """
    memo = Path(config.get("cache_dir", "")).expanduser() / MEMO
    remember_digests(memo if config.get("cache", "off") != "off" and (remember or memo.is_file()) else None)
    return build(config["task"])


def task_names(config: Mapping[str, Any]) -> list[str]:
    """The tasks a config trains, in order."""
    task = config["task"]
    if "tasks" in task:
        return [name for name in task["tasks"] if (task.get("weights") or {}).get(name, 1) != 0]
    return [task["name"]]


def task_prompts(config: Mapping[str, Any], parts: Sequence[str] = ("prompts",)) -> dict[str, list[str]]:
    """The instructions of each task that a config trains; with the part ``held_out`` also those."""
    nodes = {name: config["task"].get("tasks", {}).get(name, config["task"]) for name in task_names(config)}
    pools = {name: node.get("prompts") or {} for name, node in nodes.items()}
    return {name: [prompt for part in parts for prompt in pool.get(part) or []] for name, pool in pools.items()}


def checked(composed: Any) -> dict[str, Any]:
    """The composed config as plain data, checked against signatures and rules. Raises UserError or SecurityError."""
    config = honoured(plain(composed))
    apply_rules(PARTS, config)
    check(config, TrainConfig)
    in_range(config)
    apply_rules(VALUES, config)
    return config


def build(node: Mapping[str, Any], **more: Any) -> Any:
    """The object of one checked node, with those of the nodes in it. Raises SecurityError as `built` does."""
    return built(node, **more)
