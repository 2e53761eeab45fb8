"""What launchers and sweepers are told (``hydra.launcher``, ``hydra.sweeper``), checked as all of a config is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from omegaconf import OmegaConf

from ip2p_lightning.config.validate import check_node
from ip2p_lightning.errors import UserError


class Settings(Protocol):
    """A dataclass whose fields are the keys. `AT_LEAST`: the lowest value of some of them."""

    AT_LEAST: ClassVar[Mapping[str, float]]

    def __init__(self, **fields: Any) -> None: ...


Kind = TypeVar("Kind", bound=Settings)


def settings(kind: type[Kind], path: str, options: Mapping[str, Any], resolve: bool = True) -> Kind:
    """Options as Hydra passes them, as a `kind`.

    Raises:
        UserError: an unknown key, a wrong type, a number too low.
    """
    node = OmegaConf.to_container(OmegaConf.create(dict(options)), resolve=resolve)
    check_node(node, kind, path)
    for key, low in kind.AT_LEAST.items():
        value = node.get(key, low)
        if isinstance(value, int | float) and not value >= low:
            raise UserError(f"{path}.{key}={value}: give at least {low}")
    return kind(**node)
