"""The Lightning Trainer of a config."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ip2p_lightning.config.build import build
from ip2p_lightning.config.extensions import make_entries
from ip2p_lightning.config.overrides import hyperparameters
from ip2p_lightning.errors import UserError
from ip2p_lightning.runs.folder import METRICS, read_status
from ip2p_lightning.system.files import storage_errors
from ip2p_lightning.system.signals import StopRequest
from ip2p_lightning.training.callbacks.checkpointing import Checkpoints, SafeCheckpointIO
from ip2p_lightning.training.callbacks.hang_detector import HangDetector
from ip2p_lightning.training.callbacks.loss_log import LossLog
from ip2p_lightning.training.callbacks.preemption import Preemption
from ip2p_lightning.training.callbacks.pruning import pruning
from ip2p_lightning.training.callbacks.tensorboard_hparams import TensorBoardSummary
from ip2p_lightning.training.callbacks.validation import ValidationScores
from ip2p_lightning.training.distributed import environment
from ip2p_lightning.training.loggers.jsonl import JsonLines


def _trainer(config: Mapping[str, Any], folder: Path, data: Any, request: StopRequest, last: Any) -> Any:
    """The Trainer of a config: its own keys, plus what every run has, and a `last` callback."""
    node = dict(config["trainer"])
    checkpoints = Checkpoints(folder, config["save_every"], config["keep"])
    data.val_examples = config["val_examples"]
    validate = config["val_every"] > 0
    node["inference_mode"] = node.get("inference_mode", True) and node.get("strategy") != "fsdp2"  # it reuses tensors
    node["strategy"] = _strategy(node, config["timeout"])
    node |= environment.layout(node)
    callbacks = [*_callbacks(config, folder, data, checkpoints, request), last]
    return _constructed(
        node,
        logger=_loggers(config, folder, data),
        callbacks=callbacks,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        plugins=[SafeCheckpointIO(), environment.environment()],
        default_root_dir=str(folder),
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        check_val_every_n_epoch=None,
        val_check_interval=config["val_every"] * node.get("accumulate_grad_batches", 1) if validate else None,
        limit_val_batches=None if validate else 0,
        max_epochs=-1,
    )


def _constructed(node: Mapping[str, Any], **parts: Any) -> Any:
    """The Trainer. Raises UserError for callbacks that Lightning does not take together."""
    try:
        return build(node, **parts)
    except MisconfigurationException as error:
        raise UserError(str(error)) from None


def _loggers(config: Mapping[str, Any], folder: Path, data: Any) -> list[Any]:
    """The config's loggers, with config and hyperparameters logged, and ``metrics.jsonl``."""
    metrics = folder / METRICS
    if metrics.exists():  # from an earlier start: fail early if it cannot be written
        with storage_errors(metrics):
            metrics.open("a").close()
    loggers = make_entries(config, "logger", folder)
    for logger in loggers if environment.rank() == 0 else ():
        if hasattr(logger, "log_config"):
            logger.log_config(config, data.shares)
        logger.log_hyperparams(hyperparameters(read_status(folder)))
    return [*loggers, JsonLines(metrics)]


def _callbacks(config: Mapping[str, Any], folder: Path, data: Any, checkpoints: Any, request: StopRequest) -> list[Any]:
    """What keeps every run safe and logged, around the callbacks that the config chooses."""
    scores = ValidationScores()
    return [
        HangDetector(folder, config["timeout"]),  # first: what the others do in a hook counts as work
        LossLog(config["log_every"]),
        scores,
        TensorBoardSummary(folder, {name: task.prompts for name, task in data.active.items()}),
        *make_entries(config, "callbacks", folder),
        checkpoints,
        Preemption(request, checkpoints, agree_every=1 if config["trainer"].get("accelerator") == "cpu" else 10),
        *pruning(folder, scores),
    ]


def _strategy(node: Mapping[str, Any], timeout: int) -> Any:
    """The strategy by name, with a finite timeout, so that a dead rank ends the run instead of hanging it."""
    name, limit = node.get("strategy", "auto"), timedelta(seconds=timeout)
    if name == "ddp":
        # buffers are summed over the ranks where they change; broadcasting them would hang uneven validation shards
        return DDPStrategy(timeout=limit, broadcast_buffers=False, gradient_as_bucket_view=True)
    if name == "fsdp2":
        return ModelParallelStrategy(environment.world(), 1, save_distributed_checkpoint=False, timeout=limit)
    return name
