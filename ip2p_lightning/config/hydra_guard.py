"""What a config may not make Hydra itself do: a config file of somebody else can hold a ``hydra`` node.

Hydra builds what stands there before a program sees its config: callbacks, logging's factories, launchers' arguments.
"""

from __future__ import annotations

import os
from typing import Any

from ip2p_lightning.config.walk import walk
from ip2p_lightning.errors import SecurityError

_CODE = ("_target_", "()", "class")  # keys that Hydra, or logging for it, takes for code
_OURS = ("hydra_plugins.ip2p_lightning.", "hydra._internal.core_plugins.")


def guard_hydra() -> None:
    """Refuse, as soon as it is composed, a config whose ``hydra`` node names code or sets the environment."""
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
    """Raise SecurityError for what Hydra would run or set by the word of a config."""
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(config.hydra, resolve=False)
    for path, value in walk({"hydra": node}):
        if path.rpartition(".")[2] not in _CODE and not str(value).startswith("ext://"):
            continue
        if path not in ("hydra.launcher._target_", "hydra.sweeper._target_") or not str(value).startswith(_OURS):
            raise SecurityError(f"{path}={value} would run code; a config may not: take it out")
    for name, value in node["job"]["env_set"].items():
        if os.environ.get(name) != value:
            raise SecurityError(f"hydra.job.env_set.{name}={value} sets the environment; set it in the shell instead")
