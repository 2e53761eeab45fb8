"""Which rank of which group this process is, and what launched it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ip2p_lightning.errors import UserError
from ip2p_lightning.system.processes import die_with_parent

PARALLEL = ("ddp", "fsdp2")
LEADER = "IP2P_LEADER"  # in a rank's environment: pid of the process that started it and holds the run's folder


def size(trainer: Mapping[str, Any]) -> int:
    """Processes of the run: as many as a launcher started, or as a ``trainer`` node asks for on this machine."""
    if place() != "single":
        return world()
    return _asked(trainer) if trainer.get("strategy", "auto") in PARALLEL else 1


def _asked(trainer: Mapping[str, Any]) -> int:
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        return len(devices)
    if _left_open(devices):
        import torch

        return max(1, torch.cuda.device_count()) if trainer.get("accelerator") != "cpu" else 1
    return int(devices)


def _left_open(devices: Any) -> bool:
    return devices in ("auto", -1, "-1")


def place() -> str:
    """What launched this process: nothing (``single``), ``torchrun`` (or `launch`, in its way) or ``srun``."""
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
    name = {"torchrun": "WORLD_SIZE", "srun": "SLURM_STEP_NUM_TASKS"}.get(place())
    return int(os.environ[name]) if name else 1


def nodes() -> int:
    """Machines of this run."""
    if place() == "torchrun":
        return max(1, world() // int(os.environ["LOCAL_WORLD_SIZE"]))
    return int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) if place() == "srun" else 1


def supervised() -> bool:
    """Whether this rank was started by `launch.supervise`, which holds the folder and words how the run ended."""
    return LEADER in os.environ


def leads() -> bool:
    """Whether this process claims the run's folder and writes its status."""
    return rank() == 0 and not supervised()


def end_with_launcher() -> None:
    """A rank does not outlive torchrun, or the process that started it in torchrun's way."""
    if place() == "torchrun":
        die_with_parent(ancestor=int(os.environ[LEADER]) if supervised() else None)


def check_launch(trainer: Mapping[str, Any]) -> None:
    """Refuse a config that asks for other processes than a launcher has started, or leaves them open without one.

    Raises:
        UserError: each process would train a run of its own, or the counts differ.
    """
    started = f"{place()} started {world()} processes"
    strategy, devices = trainer.get("strategy", "auto"), trainer.get("devices", 1)
    if world() == 1:
        if strategy in PARALLEL and _left_open(devices) and trainer.get("accelerator") == "cpu":
            raise UserError(
                f"trainer.devices={devices} and trainer.strategy={strategy}: on a CPU say how many processes, "
                "trainer.devices=2"
            )
        return
    if strategy not in PARALLEL:
        raise UserError(f"{started}, but trainer.strategy={strategy} is one process; use trainer=ddp, or start one")
    here, uneven = divmod(world(), nodes())
    if uneven:
        raise UserError(f"{started} on {nodes()} machines; start as many on each")
    if not _left_open(devices) and _asked(trainer) != here:
        raise UserError(f"{started}, {here} on each machine, but trainer.devices={devices}; use trainer.devices=auto")


def layout(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning's words for the group: devices on each machine, and machines."""
    devices = trainer.get("devices", 1)
    if place() == "single":
        return {"devices": devices}
    return {"devices": world() // nodes() if _left_open(devices) else devices, "num_nodes": nodes()}


def environment() -> Any:
    """Lightning's view of the group, named explicitly: its own guess mistakes one process in an sbatch for a group."""
    from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    from ip2p_lightning.training.distributed.slurm_environment import Tasks

    return {"torchrun": TorchElasticEnvironment, "srun": Tasks, "single": LightningEnvironment}[place()]()
