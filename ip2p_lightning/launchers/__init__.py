"""Where the jobs of a sweep run: each one a process of its own, so that none can touch another."""

from ip2p_lightning.launchers.local import LocalLauncher, conclude
from ip2p_lightning.launchers.slurm import SlurmLauncher

__all__ = ["LocalLauncher", "SlurmLauncher", "conclude", "register"]


def register() -> None:
    """Make launchers and sweepers known to Hydra; their configs lie in ``conf/hydra``."""
    from hydra.core.plugins import Plugins

    from ip2p_lightning.sweepers import OptunaSweeper

    for plugin in (LocalLauncher, SlurmLauncher, OptunaSweeper):
        Plugins.instance().register(plugin)
