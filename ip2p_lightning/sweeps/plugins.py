"""Registers this package's launchers, sweepers and experiments with Hydra."""

from __future__ import annotations

from typing import Any

from hydra.plugins.search_path_plugin import SearchPathPlugin

from ip2p_lightning.config.compose import EXPERIMENTS
from ip2p_lightning.errors import UserError


class Experiments(SearchPathPlugin):
    """The package's experiments are found from anywhere: ``-cn first_light``."""

    def manipulate_search_path(self, search_path: Any) -> None:
        search_path.append("ip2p-lightning", f"file://{EXPERIMENTS.resolve()}")


def register() -> None:
    """Register launchers and sweepers, whose configs are in ``conf/hydra``, and where ``--config-name`` looks as well.

    Hydra takes plugins from ``hydra_plugins`` only. A package of that name would be imported by every Hydra application
    of the environment, so only the names are registered.
    """
    from hydra.core.plugins import Plugins

    from ip2p_lightning.sweeps.local_launcher import LocalLauncher
    from ip2p_lightning.sweeps.optuna_sweeper import OptunaSweeper
    from ip2p_lightning.sweeps.slurm_launcher import SlurmLauncher

    plugins = Plugins.instance()
    plugins.register(Experiments)
    for plugin in (LocalLauncher, SlurmLauncher, OptunaSweeper):
        plugins.register(plugin)
        plugins.class_name_to_class[f"hydra_plugins.ip2p_lightning.{plugin.__name__}"] = plugin


def refuse_others(target: str) -> None:
    """Raise UserError unless `target` is a launcher of this package.

    In Hydra's own (basic, joblib) jobs share processes: a killed job ends others, and exit codes are lost.
    """
    if not target.startswith("hydra_plugins.ip2p_lightning."):
        name = target.rpartition(".")[2]
        raise UserError(
            f"hydra.launcher={name}: its jobs share processes, and a job that fails takes others along unnoticed; use "
            "hydra/launcher=local hydra.launcher.jobs=N on this machine, hydra/launcher=submitit_slurm on a cluster"
        )
