"""The tasks of an ``srun`` as Lightning's cluster environment."""

from __future__ import annotations

import os

from lightning.pytorch.plugins.environments import ClusterEnvironment

from ip2p_lightning.errors import UserError


def _number(*names: str, default: int = 0) -> int:
    return next((int(os.environ[n]) for n in names if os.environ.get(n, "").isdigit()), default)


def tasks() -> int:
    """Tasks of this job step."""
    return _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", default=1)


def nodes() -> int:
    """Nodes of this job step."""
    return _number("SLURM_STEP_NUM_NODES", "SLURM_NNODES", default=1)


class Tasks(ClusterEnvironment):
    """Ranks from SLURM's variables, the meeting point from rank 0's announcement.

    Lightning's own takes the port from the last digits of the job id, so that two jobs on a node can clash, and refuses
    ``srun -n 2`` where ``--ntasks-per-node`` was not given.
    """

    creates_processes_externally = True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return tasks() > 1

    def world_size(self) -> int:
        return tasks()

    def global_rank(self) -> int:
        return _number("SLURM_PROCID")

    def local_rank(self) -> int:
        return _number("SLURM_LOCALID")

    def node_rank(self) -> int:
        return _number("SLURM_NODEID")

    def set_world_size(self, size: int) -> None:
        """SLURM has set it."""

    def set_global_rank(self, rank: int) -> None:
        """SLURM has set it."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raises UserError: the trainer's devices and SLURM's tasks do not agree."""
        if num_devices * num_nodes != tasks():
            raise UserError(
                f"srun started {tasks()} tasks on {num_nodes} nodes, but trainer.devices={num_devices} a node; "
                f"use trainer.devices={tasks() // max(1, num_nodes)}, or --ntasks-per-node={num_devices}"
            )
