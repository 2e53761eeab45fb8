"""The Lightning Trainer of a config."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from ip2p_lightning.system.files import storage_errors
from ip2p_lightning.system.signals import StopRequest
from ip2p_lightning.training.distributed import environment


def _trainer(config: Mapping[str, Any], folder: Path, data: Any, request: StopRequest, last: Any) -> Any:
    """The Trainer of a config: its own keys, plus what every run has, and a `last` callback."""
    from ip2p_lightning.config.build import build
    from ip2p_lightning.training.callbacks.checkpointing import Checkpoints, SafeCheckpointIO

    node = dict(config["trainer"])
    checkpoints = Checkpoints(folder, config["save_every"], config["keep"])
    data.val_examples = config["val_examples"]
    validate = config["val_every"] > 0
    node["inference_mode"] = node.get("inference_mode", True) and node.get("strategy") != "fsdp2"  # it re-uses tensors
    node["strategy"] = _strategy(node, config["timeout"])
    if environment.place() == "srun":
        from ip2p_lightning.training.distributed import slurm_environment, slurm_rendezvous

        slurm_rendezvous.check_strategy(config["trainer"], environment.PARALLEL)
        node["num_nodes"] = slurm_environment.nodes()
    return build(
        node,
        logger=_loggers(config, folder, data),
        callbacks=[*_callbacks(config, folder, data, checkpoints, request), last],
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


def _loggers(config: Mapping[str, Any], folder: Path, data: Any) -> list[Any]:
    from lightning.pytorch.loggers import TensorBoardLogger

    from ip2p_lightning.runs.folder import METRICS
    from ip2p_lightning.training.callbacks.jsonl_logger import JsonLines

    metrics = folder / METRICS
    if metrics.exists():  # an earlier start's: may it be gone on with?
        with storage_errors(metrics):
            metrics.open("a").close()
    board = TensorBoardLogger(save_dir=str(folder), name="", version="", default_hp_metric=False)
    if environment.rank() == 0:
        board.experiment.add_text("config", _as_markdown(config))
        board.experiment.add_text("data/shares", "\n".join(f"- {k}: {v:.3f}" for k, v in data.shares.items()))
    return [board, JsonLines(metrics)]


def _callbacks(config: Mapping[str, Any], folder: Path, data: Any, checkpoints: Any, request: StopRequest) -> list[Any]:
    from ip2p_lightning.training.callbacks.fault_injection import Faults, parse
    from ip2p_lightning.training.callbacks.hang_detector import Watchdog
    from ip2p_lightning.training.callbacks.image_grids import ImageGrids
    from ip2p_lightning.training.callbacks.losses import LossLog
    from ip2p_lightning.training.callbacks.preemption import Preemption
    from ip2p_lightning.training.callbacks.profiler import Profile
    from ip2p_lightning.training.callbacks.progress import Progress
    from ip2p_lightning.training.callbacks.pruning import pruning
    from ip2p_lightning.training.callbacks.sample_log import SampleLog
    from ip2p_lightning.training.callbacks.tensorboard import Board
    from ip2p_lightning.training.callbacks.validation import ValidationScores

    losses, scores = LossLog(config["log_every"]), ValidationScores()
    grids = config["grid_examples"] if config["val_every"] > 0 and environment.rank() == 0 else 0
    return [
        Watchdog(folder, config["timeout"]),  # first: what the others do in a hook counts as work
        losses,
        Progress(losses),
        scores,
        ImageGrids(folder / "samples", data.fixed_examples(grids) if grids else []),
        Board(folder, {name: task.prompts for name, task in data.active.items()}),
        *([SampleLog(folder)] if config.get("log_samples") else []),
        *map(Faults, parse(config["fault"], config["seed"]) if config["fault"] else []),
        checkpoints,
        Preemption(request, checkpoints, agree_every=1 if config["trainer"].get("accelerator") == "cpu" else 10),
        *pruning(folder, scores),
        *([Profile(folder / "profile", config["profile_steps"])] if config.get("profile_steps") else []),
    ]


def _strategy(node: Mapping[str, Any], timeout: int) -> Any:
    """The strategy by name, with a finite timeout, so that a dead rank ends the run instead of hanging it."""
    name = node.get("strategy", "auto")
    if name == "ddp":
        from lightning.pytorch.strategies import DDPStrategy

        # buffers are summed over the ranks where they change; broadcasting them would hang uneven validation shards
        return DDPStrategy(timeout=timedelta(seconds=timeout), broadcast_buffers=False, gradient_as_bucket_view=True)
    if name == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        parts = {
            "data_parallel_size": environment.world(),
            "tensor_parallel_size": 1,
            "save_distributed_checkpoint": False,
        }
        return ModelParallelStrategy(timeout=timedelta(seconds=timeout), **parts)
    return name


def _as_markdown(config: Mapping[str, Any]) -> str:
    import yaml

    return "```yaml\n" + yaml.safe_dump(dict(config), sort_keys=False, width=1000) + "```"
