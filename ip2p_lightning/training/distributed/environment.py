"""Which rank of which group this process is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

PARALLEL = ("ddp", "fsdp2")


def size(trainer: Mapping[str, Any]) -> int:
    """Processes on this machine that a ``trainer`` node asks for."""
    if trainer.get("strategy", "auto") not in PARALLEL:
        return 1
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        import torch

        return max(1, torch.cuda.device_count()) if trainer.get("accelerator") != "cpu" else 1
    return int(devices)


def place() -> str:
    """Where this process stands: ``single``, ``torchrun`` or ``srun``."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    # a step's own count of tasks: SLURM_NTASKS may be the whole allocation's
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks.isdigit() and int(tasks) > 1 and os.environ.get("SLURM_STEP_ID", "").isdigit():
        return "srun"
    return "single"


def rank() -> int:
    """This process's place in its group."""
    return int(os.environ.get("RANK" if place() == "torchrun" else "SLURM_PROCID", "0")) if place() != "single" else 0


def world() -> int:
    """Processes of this run, over all machines."""
    if place() == "torchrun":
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ["SLURM_STEP_NUM_TASKS"]) if place() == "srun" else 1


def environment() -> Any:
    """Lightning's view of the group, named explicitly: its own guess mistakes one process in an sbatch for a group."""
    from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    from ip2p_lightning.training.distributed.slurm_environment import Tasks

    where = place()
    if where == "torchrun":
        return TorchElasticEnvironment()
    return Tasks() if where == "srun" else LightningEnvironment()
