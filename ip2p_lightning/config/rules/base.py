"""What a rule is, and helpers that read a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ip2p_lightning.config.walk import get
from ip2p_lightning.errors import UserError

Config = Mapping[str, Any]
Rules = tuple[tuple[Callable[[Config], Any], Callable[[Config], str]], ...]


def apply_rules(rules: Rules, config: Config) -> None:
    """Raise UserError with the message of the first rule that `config` breaks."""
    for broken, line in rules:
        if broken(config):
            raise UserError(line(config))


def target(config: Config, node: str) -> str:
    """The last part of a node's ``_target_``."""
    return str(get(config, f"{node}._target_", "")).rpartition(".")[2]


def on_cpu(config: Config) -> bool:
    """Whether the run asks for a CPU."""
    return get(config, "trainer.accelerator") == "cpu"


def sharded(config: Config) -> bool:
    """Whether weights are spread over the ranks."""
    return get(config, "trainer.strategy") == "fsdp2"


def typed(*keys: str) -> Callable[[Config], str]:
    """Keys with their values, as on the command line."""
    return lambda config: " and ".join(f"{key}={get(config, key)}" for key in keys)
