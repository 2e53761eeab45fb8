"""The tasks of an ``srun`` as Lightning's cluster environment."""

from __future__ import annotations

import os

from lightning.pytorch.plugins.environments import LightningEnvironment

from ip2p_lightning.training.distributed.environment import rank, world


class SrunEnvironment(LightningEnvironment):
    """Ranks from SLURM's variables, MASTER_ADDR and MASTER_PORT from rank 0's announcement.

    Lightning's own for SLURM takes the port from the last digits of the job id, so that two jobs on a node can clash,
    and refuses ``srun -n 2`` without ``--ntasks-per-node``.
    """

    creates_processes_externally = True

    def world_size(self) -> int:
        return world()

    def global_rank(self) -> int:
        return rank()

    def local_rank(self) -> int:
        return int(os.environ.get("SLURM_LOCALID", "0"))

    def node_rank(self) -> int:
        return int(os.environ.get("SLURM_NODEID", "0"))
