"""Faults on demand, so that what should survive them can be tested: a callback of one's own, permitted like any other.

``with_fault`` puts it into a command: ``fault=KIND@PLACE=VALUE[,rank=R][,seed=S]``, several divided by ``;``.

Kinds: kill and term (signals to itself), raise, exit (with code 7), oom (asks for more memory than there is), hang,
enospc (as a full disk has it); nan and inf poison the images of a ``step``.

Places: ``step=50`` (before that step), ``micro_step=7`` (in it), ``ckpt_write=0.5`` (half-way in a checkpoint's bytes),
``val=1`` and ``log=1`` (the n-th validation or log line), ``pair=3`` (in the process that reads pair 3).

``seed=S`` is for sweeps: only the job with that seed has the fault.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from ip2p_lightning.config.extensions import PERMISSION
from ip2p_lightning.data import bad_pairs
from ip2p_lightning.runs import checkpoint

ROOT = Path(__file__).parents[2]
CONF = Path(__file__).parent / "conf"
_PLACES = ("step", "micro_step", "ckpt_write", "pair", "val", "log")


@dataclass(frozen=True)
class Fault:
    """What goes wrong, where, at which value of it, on which rank, in the run of which seed (None = any)."""

    kind: str
    where: str
    value: float
    rank: int = 0
    seed: int | None = None


def with_fault(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """A command's words, with ``fault=...`` among them, as ``ip2p-train`` takes them, and the environment they need."""
    found = [word.removeprefix("fault=").strip("'") for word in words if word.startswith("fault=")]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {PERMISSION: f"{__name__}.Faults", "PYTHONPATH": os.pathsep.join(paths)}
    kept = [word for word in words if not word.startswith("fault=")]
    if not found or found[-1] == "null":
        return kept, environment
    chosen = next((word for word in kept if word.startswith("callbacks=[")), "callbacks=[default]")
    kept = [word for word in kept if word != chosen]
    return [f"--config-dir={CONF}", *kept, f"{chosen[:-1]},fault]"], environment | {"IP2P_FAULT": found[-1]}


class Faults(Callback):
    """The faults of the environment's IP2P_FAULT, each once in a process's life."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            found = map(_parse_one, os.environ["IP2P_FAULT"].split(";"))
            mine = [OneFault(fault) for fault in found if fault.seed in (None, pl_module.seed)]
            place = trainer.callbacks.index(self) + 1
            trainer.callbacks[place:place] = mine  # Lightning sets up those after this one in the same loop


def _parse_one(text: str) -> Fault:
    found = re.fullmatch(r"(\w+)@(\w+)=([\d.]+)(?:,rank=(\d+))?(?:,seed=(\d+))?", text.strip())
    if not found or found[2] not in (_PLACES if found[1] in _ACTS else ("step",)):
        raise ValueError(f"fault={text} is not understood: kinds {[*_ACTS, *_POISON]}, places {_PLACES}")
    return Fault(found[1], found[2], float(found[3]), int(found[4] or 0), int(found[5]) if found[5] else None)


class OneFault(Callback):
    """Makes one fault happen, once in a process's life."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.validations, self.lines = fault, 0, 0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if trainer.global_rank != self.fault.rank or stage != "fit":
            return
        if self.fault.where == "ckpt_write":
            checkpoint.on_write = _interrupter(self.fault, pl_module)
        elif self.fault.where == "micro_step":
            pl_module.training_step = self._first(pl_module.training_step, lambda: pl_module.micro_step - 1)
        elif self.fault.where == "log":
            logger = trainer.loggers[-1]
            logger.log_metrics = self._first(logger.log_metrics, self._count_line)
        elif self.fault.where == "pair":
            bad_pairs.on_example = lambda key: _ACTS[self.fault.kind]() if key.index == self.fault.value else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == self.fault.rank and self._here("step", trainer.global_step):
            if self.fault.kind in _POISON:
                batch.edited.fill_(_POISON[self.fault.kind])
            else:
                _ACTS[self.fault.kind]()

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.validations += 1
        if trainer.global_rank == self.fault.rank and self._here("val", self.validations):
            _ACTS[self.fault.kind]()

    def _count_line(self) -> int:
        self.lines += 1
        return self.lines

    def _first(self, action: Callable[..., Any], place: Callable[[], int]) -> Callable[..., Any]:
        """`action`, in which the fault happens first where the place is its own."""

        def faulty(*args: Any, **kwargs: Any) -> Any:
            if place() == self.fault.value:
                _ACTS[self.fault.kind]()
            return action(*args, **kwargs)

        return faulty

    def _here(self, where: str, value: float) -> bool:
        return self.fault.where == where and value == self.fault.value


def _raise() -> None:
    raise RuntimeError("a fault was asked for")


def _hang() -> None:
    time.sleep(1e6)


def _fill() -> None:
    raise OSError(28, "No space left on device")


_POISON = {"nan": float("nan"), "inf": 1e30}  # the square of the latter is more than float32 holds
_ACTS: dict[str, Callable[[], Any]] = {
    "kill": partial(signal.raise_signal, signal.SIGKILL),
    "term": partial(signal.raise_signal, signal.SIGTERM),
    "raise": _raise,
    "exit": partial(sys.exit, 7),
    "oom": partial(torch.empty, 2**50, dtype=torch.uint8),  # more than a process can address
    "hang": _hang,
    "enospc": _fill,
}


def _interrupter(fault: Fault, module: Any) -> Callable[[int], None]:
    """Called with each number of bytes written; acts once `value` of the weights' own size has passed."""
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    written = 0

    def watch(count: int) -> None:
        nonlocal written
        written += count
        if written >= fault.value * size:
            written = -(10**18)
            _ACTS[fault.kind]()

    return watch
