"""What a rule is, and how it reads a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ip2p_lightning.errors import UserError

Config = Mapping[str, Any]


Rules = tuple[tuple[Callable[[Config], Any], Callable[[Config], str]], ...]


def _apply(rules: Rules, config: Config) -> None:
    for broken, line in rules:
        if broken(config):
            raise UserError(line(config))


def _get(config: Config, path: str, default: Any = None) -> Any:
    node: Any = config
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return default
        node = node[key]
    return node


def _target(config: Config, node: str) -> str:
    return str(_get(config, f"{node}._target_", "")).rpartition(".")[2]


def _on_cpu(config: Config) -> bool:
    return _get(config, "trainer.accelerator") == "cpu"


def _sharded(config: Config) -> bool:
    return _get(config, "trainer.strategy") == "fsdp2"


def _value(*keys: str) -> Callable[[Config], str]:
    return lambda config: " and ".join(f"{key}={_get(config, key)}" for key in keys)
