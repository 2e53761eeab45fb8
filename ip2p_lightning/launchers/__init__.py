"""Where the jobs of a sweep run: each one a process of its own, so that none can touch another."""

from ip2p_lightning.launchers.local import LocalLauncher, conclude

__all__ = ["LocalLauncher", "conclude", "register"]


def register() -> None:
    """Make the launchers known to Hydra; their configs lie in ``conf/hydra/launcher``."""
    from hydra.core.plugins import Plugins

    Plugins.instance().register(LocalLauncher)
