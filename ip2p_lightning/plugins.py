"""Our launchers and sweepers as Hydra's plugins."""

from __future__ import annotations


def register() -> None:
    """Make launchers and sweepers known to Hydra; their configs lie in ``conf/hydra``.

    Hydra takes plugins by names in ``hydra_plugins`` only. A package of that name would be imported by every Hydra
    application of the environment, so the names alone are registered.
    """
    from hydra.core.plugins import Plugins

    from ip2p_lightning.launchers import LocalLauncher, SlurmLauncher
    from ip2p_lightning.sweepers import OptunaSweeper

    plugins = Plugins.instance()
    for plugin in (LocalLauncher, SlurmLauncher, OptunaSweeper):
        plugins.register(plugin)
        plugins.class_name_to_class[f"hydra_plugins.ip2p_lightning.{plugin.__name__}"] = plugin
