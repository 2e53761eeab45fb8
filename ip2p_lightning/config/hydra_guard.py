"""Refuses code in the ``hydra`` node of a config that somebody else wrote.

Hydra instantiates that node (callbacks, logging factories, launcher arguments) before a program sees its config.
"""

from __future__ import annotations

import os
from typing import Any, cast

from ip2p_lightning.config.walk import walk
from ip2p_lightning.errors import SecurityError

_CODE = ("_target_", "()", "class")  # keys whose values Hydra or logging imports
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

    node = cast(dict[str, Any], OmegaConf.to_container(config.hydra, resolve=False))
    for path, value in walk({"hydra": node}):
        if path.rpartition(".")[2] not in _CODE and not str(value).startswith("ext://"):
            continue
        if path not in ("hydra.launcher._target_", "hydra.sweeper._target_") or not str(value).startswith(_OURS):
            raise SecurityError(f"{path}={value} would run code, which a config may not; remove it")
    for name, value in node["job"]["env_set"].items():
        if os.environ.get(name) != value:
            raise SecurityError(f"hydra.job.env_set.{name}={value} sets the environment; set it in the shell instead")
