"""Opens a trained run: its config and its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ip2p_lightning.config.build import build_module
from ip2p_lightning.config.extensions import GROUPS
from ip2p_lightning.config.train_config import TrainConfig
from ip2p_lightning.config.validate import check
from ip2p_lightning.errors import UserError
from ip2p_lightning.runs.checkpoint import load, newest_valid, step_of
from ip2p_lightning.runs.folder import STATUS, read_config


@dataclass
class Run:
    """A trained run's config and model; `step` and `weights` (``ema`` or ``raw``) say which."""

    folder: Path
    config: dict[str, Any]
    module: Any
    step: int
    weights: str


def model_config(folder: str | Path) -> dict[str, Any]:
    """A run's checked config without its callbacks and loggers, which using a model never imports."""
    config = {key: value for key, value in read_config(Path(folder)).items() if key not in GROUPS}
    check(config, TrainConfig)
    return config


def open_run(folder: str | Path, weights: str = "ema", merged: bool = True) -> Run:
    """Rebuild a run's model from its config and its newest undamaged checkpoint.

    `weights` are ``ema`` (averaged) or ``raw``; `merged` adds low-rank adapters to the weights that they adapt. Raises
    UserError: not a run, no checkpoint yet, or no averaged weights in it; and as `checkpoint.load`.
    """
    folder = Path(folder)
    config = model_config(folder)
    path = newest_valid(folder)
    if path is None:
        raise UserError(f"{folder} has no checkpoint yet; continue it with the command in its {STATUS}")
    content = load(path)
    module = build_module(config)
    whole = module.completed(content)
    if weights == "ema":
        if "ema" not in content:
            raise UserError(
                f"{folder} was trained without averaged weights (model.ema=null); ask for the raw ones (--weights raw)"
            )
        whole |= content["ema"]["weights"] if content["ema"]["step"] > 0 else {}
    module.load_state_dict(whole)
    if merged and getattr(module.unet, "lora", None):
        module.unet.lora.merge(module.unet)
    return Run(folder, config, module.eval(), step_of(path), weights)
