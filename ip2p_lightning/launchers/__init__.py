"""Where the jobs of a sweep run: each one a process of its own, so that none can touch another."""

from ip2p_lightning.errors import UserError
from ip2p_lightning.launchers.local import LocalLauncher, conclude
from ip2p_lightning.launchers.slurm import SlurmLauncher

__all__ = ["LocalLauncher", "SlurmLauncher", "conclude", "refuse_others"]


def refuse_others(target: str) -> None:
    """Raise UserError unless `target` is a launcher of ours: Hydra's run jobs inside processes that they share.

    There, a job that is killed or exits takes others along, and a job's exit code is lost (tried: basic, joblib).
    """
    if not target.startswith("hydra_plugins.ip2p_lightning."):
        name = target.rpartition(".")[2]
        raise UserError(
            f"hydra.launcher={name}: its jobs share processes, and a job that fails takes others along unnoticed; use "
            "hydra/launcher=local hydra.launcher.jobs=N on this machine, hydra/launcher=submitit_slurm on a cluster"
        )
