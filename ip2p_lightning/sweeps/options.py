"""Options of launchers and sweepers (``hydra.launcher``, ``hydra.sweeper``), checked like the rest of a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf

from ip2p_lightning.config.validate import check_node
from ip2p_lightning.errors import UserError

Kind = TypeVar("Kind")


def read_options(
    kind: Callable[..., Kind], path: str, options: Mapping[str, Any], low: Mapping[str, float], resolve: bool = True
) -> Kind:
    """Hydra's options as a dataclass. Raises UserError: an unknown key, a wrong type, a value below `low`."""
    node = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(dict(options)), resolve=resolve))
    check_node(node, kind, path)
    for key, least in low.items():
        value = node.get(key, least)
        if isinstance(value, int | float) and not value >= least:
            raise UserError(f"{path}.{key}={value}: give at least {least}")
    return kind(**node)
