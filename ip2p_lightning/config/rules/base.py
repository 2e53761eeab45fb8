"""What a rule is, and helpers that read a config."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ip2p_lightning.config.walk import get
from ip2p_lightning.errors import UserError

Config = Mapping[str, Any]
Rules = tuple[tuple[Callable[[Config], Any], str | Callable[[Config], str]], ...]


def apply_rules(rules: Rules, config: Config) -> None:
    """Raise UserError with the message of the first rule that `config` breaks; ``{KEY}`` becomes ``KEY=VALUE``."""
    for broken, message in rules:
        if broken(config):
            shown = lambda found: f"{found[1]}={get(config, found[1])}"  # noqa: E731
            raise UserError(re.sub(r"\{(.+?)\}", shown, message) if isinstance(message, str) else message(config))


def target(config: Config, node: str) -> str:
    """The last part of a node's ``_target_``."""
    return str(get(config, f"{node}._target_", "")).rpartition(".")[2]


def on_cpu(config: Config) -> bool:
    """Whether the run asks for a CPU."""
    return get(config, "trainer.accelerator") == "cpu"


def sharded(config: Config) -> bool:
    """Whether weights are spread over the ranks."""
    return get(config, "trainer.strategy") == "fsdp2"
