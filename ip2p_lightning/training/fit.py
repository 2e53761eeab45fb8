"""The Trainer of a run, and one fit of it in this process."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ip2p_lightning.config.build import build_module
from ip2p_lightning.data.bad_pairs import RECORD, BadPairs
from ip2p_lightning.data.latent_cache.cache import cached
from ip2p_lightning.data.prompts import token_report
from ip2p_lightning.errors import StorageError, chain
from ip2p_lightning.runs.folder import note
from ip2p_lightning.system.allocator import keep_pages
from ip2p_lightning.system.files import full_disk_named
from ip2p_lightning.system.imports import gc_paused, quiet_libraries
from ip2p_lightning.system.signals import StopRequest
from ip2p_lightning.training.callbacks.validation import PendingValidation
from ip2p_lightning.training.distributed import environment
from ip2p_lightning.training.trainer import _trainer


def fit(config: Mapping[str, Any], folder: Path, data: Any, checkpoint: str | None, request: StopRequest) -> int:
    """Train this process's part of a run in `folder`, from a `checkpoint` if it is continued.

    `config` is checked and resolved, `data` its data module, `request` what the signal handlers set. Returns the last
    optimizer step.
    """
    _quiet()
    _set_up_device(config)
    with gc_paused():
        quiet_libraries()
        module = build_module(config)
    validation = PendingValidation(folder)
    trainer = _trainer(config, folder, data, request, validation)
    if environment.rank() == 0:
        _report_cut_prompts(data, module.text_encoder)
    started = time.perf_counter()
    with _tolerating(folder, data):
        with full_disk_named(folder), _caching(config, folder, data, module, trainer):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        step = trainer.global_step
        if config["val_every"] and validation.is_pending(trainer):
            trainer.validate(module, datamodule=data, verbose=False)  # a run ends with the scores of its last weights
    if trainer.is_global_zero:
        print(f"trained to step {step} in {time.perf_counter() - started:.0f} s")
    return step


def _report_cut_prompts(data: Any, encoder: Any) -> None:
    """Print which share of each task's pool is too long for the text encoder."""
    for name, task in data.active.items():
        if report := token_report(task.prompts, encoder.count, encoder.length):
            print(f"prompts of {name}: {report}")


def _set_up_device(config: Mapping[str, Any]) -> None:
    """Set how this process multiplies and allocates."""
    torch.set_float32_matmul_precision(config.get("matmul_precision", "highest"))
    if config["trainer"].get("accelerator") != "cpu":
        return
    keep_pages()
    able = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if "16" in str(config["trainer"].get("precision")) and not able:
        print("trainer.precision: this CPU has no arithmetic in 16 bits; 32-true is 4 to 16 times faster")


@contextmanager
def _tolerating(folder: Path, data: Any) -> Iterator[None]:
    """Leave out and report unreadable pairs, up to `loader.max_bad`; reword torch's error about a dead worker."""
    bad = BadPairs(folder / RECORD, data.loader.max_bad)
    data.bad = bad if bad.most else None
    try:
        yield
    except RuntimeError as error:  # raised anywhere; Lightning's own teardown may fail after a worker did
        raise next(filter(None, map(data.explained, chain(error))), error) from None
    finally:
        if environment.rank() == 0 and bad.path.exists():
            note(folder, bad_pairs=bad.lines())
            print(f"left out, because they could not be read: {len(bad)} pairs, listed in {bad.path}")


@contextmanager
def _caching(config: Mapping[str, Any], folder: Path, data: Any, module: Any, trainer: Any) -> Iterator[None]:
    """Train from the config's cache, if any; print its size, and record its use in the status."""
    cache = cached(config, data, module.autoencoder)
    if cache is None or not trainer.is_global_zero:
        yield
        return
    print(cache.summary())
    note(folder, cache=cache.state())
    try:
        yield
    finally:
        with suppress(StorageError):  # a full disk must not hide what ended the fit
            note(folder, cache=cache.state())


def _quiet() -> None:
    """Silence Lightning's advice about loaders and hardware."""
    threading.excepthook = _quiet_thread
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(lightning|huggingface_hub)\..*")
    warnings.filterwarnings("ignore", message=".*(does not have many workers|dataloader is not resumable).*")


def _quiet_thread(failure: threading.ExceptHookArgs) -> None:
    """A full disk in TensorBoard's thread is reported in one line by the thread that trains."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
