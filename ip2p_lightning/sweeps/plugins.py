"""Our launchers and sweepers as Hydra's plugins."""

from __future__ import annotations

from ip2p_lightning.errors import UserError


def register() -> None:
    """Make launchers and sweepers known to Hydra; their configs lie in ``conf/hydra``.

    Hydra takes plugins by names in ``hydra_plugins`` only. A package of that name would be imported by every Hydra
    application of the environment, so the names alone are registered.
    """
    from hydra.core.plugins import Plugins

    from ip2p_lightning.sweeps.local_launcher import LocalLauncher
    from ip2p_lightning.sweeps.optuna_sweeper import OptunaSweeper
    from ip2p_lightning.sweeps.slurm_launcher import SlurmLauncher

    plugins = Plugins.instance()
    for plugin in (LocalLauncher, SlurmLauncher, OptunaSweeper):
        plugins.register(plugin)
        plugins.class_name_to_class[f"hydra_plugins.ip2p_lightning.{plugin.__name__}"] = plugin


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
