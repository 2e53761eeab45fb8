"""The tasks of an ``srun`` as Lightning's cluster environment."""

from __future__ import annotations

import os

from lightning.pytorch.plugins.environments import ClusterEnvironment

from ip2p_lightning.training.distributed.environment import rank, world


class SrunEnvironment(ClusterEnvironment):
    """Ranks from SLURM's variables, the main address from rank 0's announcement.

    Lightning's own takes the port from the last digits of the job id, so that two jobs on a node can clash, and refuses
    ``srun -n 2`` without ``--ntasks-per-node``.
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
        return world() > 1

    def world_size(self) -> int:
        return world()

    def global_rank(self) -> int:
        return rank()

    def local_rank(self) -> int:
        return int(os.environ.get("SLURM_LOCALID", "0"))

    def node_rank(self) -> int:
        return int(os.environ.get("SLURM_NODEID", "0"))

    def set_world_size(self, size: int) -> None:
        """SLURM has set it."""

    def set_global_rank(self, rank: int) -> None:
        """SLURM has set it."""
