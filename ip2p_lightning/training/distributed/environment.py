"""This process's rank, the number of ranks, and what launched them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ip2p_lightning.errors import UserError
from ip2p_lightning.system.processes import die_with_parent

PARALLEL = ("ddp", "fsdp2")
LEADER = "IP2P_LEADER"  # environment variable of a rank: pid of the process that started it and holds the run's folder


def size(trainer: Mapping[str, Any]) -> int:
    """Processes of the run: as many as a launcher started, or as the ``trainer`` node asks for."""
    if place() != "single":
        return world()
    return _asked(trainer) if trainer.get("strategy", "auto") in PARALLEL else 1


def _asked(trainer: Mapping[str, Any]) -> int:
    devices = trainer.get("devices", 1)
    if isinstance(devices, list):
        return len(devices)
    if _is_auto(devices):
        import torch

        return max(1, torch.cuda.device_count()) if trainer.get("accelerator") != "cpu" else 1
    return int(devices)


def _is_auto(devices: Any) -> bool:
    return devices in ("auto", -1, "-1")


def place() -> str:
    """What launched this process: nothing (``single``), ``torchrun`` (or `launch`, in its way) or ``srun``."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    # the step's task count: SLURM_NTASKS may be that of the whole allocation
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks.isdigit() and int(tasks) > 1 and os.environ.get("SLURM_STEP_ID", "").isdigit():
        return "srun"
    return "single"


def rank() -> int:
    """This process's rank."""
    return int(os.environ.get("RANK" if place() == "torchrun" else "SLURM_PROCID", "0")) if place() != "single" else 0


def world() -> int:
    """Launched processes, over all machines."""
    name = {"torchrun": "WORLD_SIZE", "srun": "SLURM_STEP_NUM_TASKS"}.get(place())
    return int(os.environ[name]) if name else 1


def nodes() -> int:
    """Machines of the launched processes."""
    if place() == "torchrun":
        return max(1, world() // int(os.environ["LOCAL_WORLD_SIZE"]))
    return int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) if place() == "srun" else 1


def supervised() -> bool:
    """Whether `launch.supervise` started this rank; then that process holds the folder and reports the outcome."""
    return LEADER in os.environ


def leads() -> bool:
    """Whether this process claims the run's folder and writes its status."""
    return rank() == 0 and not supervised()


def end_with_launcher() -> None:
    """Kill this rank when torchrun, or the process that started it in torchrun's way, ends."""
    if place() == "torchrun":
        die_with_parent(ancestor=int(os.environ[LEADER]) if supervised() else None)


def check_launch(trainer: Mapping[str, Any]) -> None:
    """Raise UserError if the config asks for another number of processes than a launcher has started."""
    started = f"{place()} started {world()} processes"
    strategy, devices = trainer.get("strategy", "auto"), trainer.get("devices", 1)
    if world() == 1:
        if strategy in PARALLEL and _is_auto(devices) and trainer.get("accelerator") == "cpu":
            both = f"trainer.devices={devices} and trainer.strategy={strategy}"
            raise UserError(f"{both}: on a CPU give the number of processes, trainer.devices=2")
        return
    if strategy not in PARALLEL:
        raise UserError(f"{started}, but trainer.strategy={strategy} is one process; use trainer=ddp, or start one")
    here, uneven = divmod(world(), nodes())
    if uneven:
        raise UserError(f"{started} on {nodes()} machines; start as many on each")
    if not _is_auto(devices) and _asked(trainer) != here:
        raise UserError(f"{started}, {here} on each machine, but trainer.devices={devices}; use trainer.devices=auto")


def missing_gpus(trainer: Mapping[str, Any]) -> str:
    """What a run asks for that this machine lacks, "" where it lacks nothing."""
    if trainer.get("accelerator") not in ("gpu", "cuda"):
        return ""
    import torch

    here, devices = torch.cuda.device_count(), trainer.get("devices", 1)
    wanted = max(map(int, devices), default=0) + 1 if isinstance(devices, list) else max(1, _asked(trainer))
    if here >= wanted:
        return ""
    return "no GPU" if not here else f"{wanted} GPUs (here: {here})"


def layout(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning's ``devices`` and ``num_nodes``."""
    devices = trainer.get("devices", 1)
    if place() == "single":
        return {"devices": devices}
    return {"devices": world() // nodes() if _is_auto(devices) else devices, "num_nodes": nodes()}


def environment() -> Any:
    """Lightning's cluster environment; its own guess takes one process in an sbatch for several."""
    from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    from ip2p_lightning.training.distributed.slurm_environment import SrunEnvironment

    return {"torchrun": TorchElasticEnvironment, "srun": SrunEnvironment, "single": LightningEnvironment}[place()]()
