"""Refuses code in the ``hydra`` node of a config that somebody else wrote.

Hydra instantiates that node (callbacks, logging factories, launcher arguments) before a program sees its config.
"""

from __future__ import annotations

import os
from typing import Any

from ip2p_lightning.config.interpolation import refuse_resolvers
from ip2p_lightning.config.walk import walk
from ip2p_lightning.errors import SecurityError

_BUILT = ("hydra.launcher._target_", "hydra.sweeper._target_")
_NO_LOGGING = {"version", "root", "disable_existing_loggers"}
_OURS = ("hydra_plugins.ip2p_lightning.", "hydra._internal.core_plugins.")


def guard_hydra() -> None:
    """Check the ``hydra`` node of every config that Hydra composes."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    compose = ConfigLoaderImpl.load_configuration
    if getattr(compose, "guarded", False):
        return

    def composed(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = compose(self, *args, **kwargs)
        refuse_code(config)
        return config

    composed.guarded = True  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_configuration = composed  # type: ignore[method-assign]


def refuse_code(config: Any) -> None:
    """Raise SecurityError where the ``hydra`` node names code or sets the environment."""
    from omegaconf import OmegaConf

    hydra = config.hydra
    raw = {"hydra": OmegaConf.to_container(hydra, resolve=False)}
    refuse_resolvers(raw, hydras=True)
    for path, value in walk(raw):
        if path.endswith("._target_") and not (path in _BUILT and str(value).startswith(_OURS)):
            raise SecurityError(f"{path}={value} would run code, which a config may not; remove it")
    for name in ("job_logging", "hydra_logging"):  # its handlers and filters may be any function
        if set(hydra[name]) - _NO_LOGGING or hydra[name].root:
            raise SecurityError(f"hydra.{name} could run code, which a config may not; keep hydra/{name}=none")
    for name, value in hydra.job.env_set.items():
        if os.environ.get(name) != value:
            raise SecurityError(f"hydra.job.env_set.{name}={value} sets the environment; set it in the shell instead")
