"""The Trainer of a run, and one fit of it in this process."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from ip2p_lightning import group
from ip2p_lightning.errors import StorageError
from ip2p_lightning.system.allocator import keep_pages
from ip2p_lightning.system.files import full_disk_named, storage_errors
from ip2p_lightning.system.imports import uncollected
from ip2p_lightning.system.signals import StopRequest


def fit(config: Mapping[str, Any], folder: Path, data: Any, checkpoint: str | None, request: StopRequest) -> int:
    """Train, or go on training, this process's part of a run.

    Args:
        config: checked.
        folder: the run's.
        data: its data module.
        checkpoint: to go on from.
        request: what the signal handlers write to.

    Returns:
        The optimizer step reached.
    """
    from ip2p_lightning.config.build import build_module
    from ip2p_lightning.merging import merged, settled
    from ip2p_lightning.owed import OwedValidation
    from ip2p_lightning.runs.folder import METRICS
    from ip2p_lightning.system.imports import quiet_libraries

    _quiet()
    with uncollected():  # imports what the parts are made of
        quiet_libraries()
        data.merge = settled(config, folder)
        module = build_module(_prepared(merged(config, data.merge), folder))
    module.any_world = "world" in config["resume_allow"]
    module.merge = data.merge
    validation = OwedValidation(folder / METRICS)
    trainer = _trainer(config, folder, data, request, validation)
    if group.rank() == 0:
        _tell_what_is_cut(data, module.text_encoder)
    started = time.perf_counter()
    with _tolerating(folder, data):
        with full_disk_named(folder), _caching(config, folder, data, module, trainer):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        step = trainer.global_step
        if config["val_every"] and validation.owed(trainer):
            trainer.validate(module, datamodule=data, verbose=False)  # a run ends with the scores of its last weights
    if trainer.is_global_zero:
        print(f"trained to step {step} in {time.perf_counter() - started:.0f} s")
    return step


def _tell_what_is_cut(data: Any, encoder: Any) -> None:
    """Say which share of a task's pool is too long for the text encoder; of a dataset's own prompts its card does."""
    from ip2p_lightning.data.prompts import token_report

    for name, task in data.active.items():
        told = token_report(task.prompts, encoder.count, encoder.length)
        if told:
            print(f"prompts of {name}: {told}")


def _prepared(config: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Set how this device multiplies, and choose what the config leaves to it; the choice is in the status."""
    import torch

    torch.set_float32_matmul_precision(config.get("matmul_precision", "highest"))
    trainer = config["trainer"]
    if trainer.get("accelerator") == "cpu":
        keep_pages()
    able = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if trainer.get("accelerator") == "cpu" and "16" in str(trainer.get("precision")) and not able:
        print("trainer.precision: this CPU has no arithmetic in 16 bits; 32-true is 4 to 16 times faster")
    if config["model"].get("gradient_checkpointing") != "auto":
        return config
    from ip2p_lightning.estimate import decided
    from ip2p_lightning.runs.folder import note

    config = decided(config)
    if group.rank() == 0:
        note(folder, gradient_checkpointing=config["model"]["gradient_checkpointing"])
    return config


@contextmanager
def _tolerating(folder: Path, data: Any) -> Iterator[None]:
    """Leave out what `loader.max_bad` allows, and say what it was; word what torch says of a worker that died."""
    from ip2p_lightning.data.bad_pairs import RECORD, BadPairs
    from ip2p_lightning.runs.folder import note

    bad = BadPairs(folder / RECORD, data.loader.max_bad)
    data.bad = bad if bad.most else None
    try:
        yield
    except RuntimeError as error:  # torch raises it wherever the main process happens to be
        raise next(filter(None, map(data.explained, _chain(error))), error) from None
    finally:
        if group.rank() == 0 and bad.path.exists():
            note(folder, bad_pairs=bad.lines())
            print(f"left out, because they could not be read: {len(bad)} pairs, listed in {bad.path}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised upon: Lightning's own teardown may fail after a worker did."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _caching(config: Mapping[str, Any], folder: Path, data: Any, module: Any, trainer: Any) -> Iterator[None]:
    """Train from the cache that the config names; say what it holds, and in the status what it did."""
    from ip2p_lightning.cache_choice import KEY, noted
    from ip2p_lightning.data.latent_cache.cache import cached
    from ip2p_lightning.runs.folder import note

    cache = cached(config, data, module.autoencoder, trainer.world_size, noted(folder))
    if cache is None:
        yield
        return
    if trainer.is_global_zero:
        print(cache.summary())
        note(folder, **{KEY: cache.state()})
    try:
        yield
    finally:
        if trainer.is_global_zero:
            with suppress(StorageError):  # a full disk must not hide what ended the fit
                note(folder, **{KEY: cache.state()})


def _trainer(config: Mapping[str, Any], folder: Path, data: Any, request: StopRequest, last: Any) -> Any:
    """The Trainer of a config: its own keys, plus what every run has, and a `last` callback."""
    from ip2p_lightning.config.build import build
    from ip2p_lightning.runs.checkpoint import Checkpoints, SafeCheckpointIO

    node = dict(config["trainer"])
    node["accumulate_grad_batches"] = node.get("accumulate_grad_batches", 1) // data.merge
    checkpoints = Checkpoints(folder, config["save_every"], config["keep"])
    data.val_examples = config["val_examples"]
    validate = config["val_every"] > 0
    node["inference_mode"] = node.get("inference_mode", True) and node.get("strategy") != "fsdp2"  # it re-uses tensors
    node["strategy"] = _strategy(node, config["timeout"])
    if group.place() == "srun":
        from ip2p_lightning import srun

        srun.check_strategy(config["trainer"], group.PARALLEL)
        node["num_nodes"] = srun.nodes()
    return build(
        node,
        logger=_loggers(config, folder, data),
        callbacks=[*_callbacks(config, folder, data, checkpoints, request), last],
        plugins=[SafeCheckpointIO(), group.environment()],
        default_root_dir=str(folder),
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        check_val_every_n_epoch=None,
        val_check_interval=config["val_every"] * node["accumulate_grad_batches"] if validate else None,
        limit_val_batches=None if validate else 0,
        max_epochs=-1,
    )


def _loggers(config: Mapping[str, Any], folder: Path, data: Any) -> list[Any]:
    from lightning.pytorch.loggers import TensorBoardLogger

    from ip2p_lightning.callbacks import JsonLines
    from ip2p_lightning.runs.folder import METRICS

    metrics = folder / METRICS
    if metrics.exists():  # an earlier start's: may it be gone on with?
        with storage_errors(metrics):
            metrics.open("a").close()
    board = TensorBoardLogger(save_dir=str(folder), name="", version="", default_hp_metric=False)
    if group.rank() == 0:
        board.experiment.add_text("config", _as_markdown(config))
        board.experiment.add_text("data/shares", "\n".join(f"- {k}: {v:.3f}" for k, v in data.shares.items()))
    return [board, JsonLines(metrics)]


def _callbacks(config: Mapping[str, Any], folder: Path, data: Any, checkpoints: Any, request: StopRequest) -> list[Any]:
    from ip2p_lightning.board import Board
    from ip2p_lightning.callbacks import ImageGrids, LossLog, Progress, ValidationScores
    from ip2p_lightning.faults import Faults, parse
    from ip2p_lightning.preemption import Preemption
    from ip2p_lightning.profile import Profile
    from ip2p_lightning.pruning import pruning
    from ip2p_lightning.sample_log import SampleLog
    from ip2p_lightning.watchdog import Watchdog

    losses, scores = LossLog(config["log_every"]), ValidationScores()
    grids = config["grid_examples"] if config["val_every"] > 0 and group.rank() == 0 else 0
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

        parts = {"data_parallel_size": group.world(), "tensor_parallel_size": 1, "save_distributed_checkpoint": False}
        return ModelParallelStrategy(timeout=timedelta(seconds=timeout), **parts)
    return name


def _as_markdown(config: Mapping[str, Any]) -> str:
    import yaml

    return "```yaml\n" + yaml.safe_dump(dict(config), sort_keys=False, width=1000) + "```"


def _quiet() -> None:
    """Say what a user can act on; Lightning's advice about loaders and hardware is not that."""
    threading.excepthook = _quiet_thread
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(lightning|huggingface_hub)\..*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")


def _quiet_thread(told: threading.ExceptHookArgs) -> None:
    """A disk that TensorBoard's thread finds full is told in one line by the thread that trains."""
    if not isinstance(told.exc_value, OSError):
        threading.__excepthook__(told)
