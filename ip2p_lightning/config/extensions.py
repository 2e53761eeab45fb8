"""Callbacks and loggers: the two groups in which a config may name classes of one's own.

The environment of the present process permits them by their exact names. A config, stored or written by somebody else,
cannot: it has no key for it, and Hydra's way to set the environment from a config is refused (see ``hydra_guard``).
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.config.schema import ALLOWED_TARGETS, import_target
from ip2p_lightning.errors import SecurityError, UserError

PERMISSION = "IP2P_ALLOW_TARGETS"  # names of classes, divided by commas
GROUPS = {"callbacks": ("lightning.pytorch", "Callback"), "logger": ("lightning.pytorch.loggers", "Logger")}


def without(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without the two groups: what shapes a model. Who opens a run never reads more of it."""
    return {key: value for key, value in config.items() if key not in GROUPS}


def permit(path: str, name: Any) -> None:
    """Raise SecurityError unless the class `name` may stand at ``GROUP.ENTRY._target_``."""
    allowed = {word.strip() for word in os.environ.get(PERMISSION, "").split(",")} | ALLOWED_TARGETS
    if not isinstance(name, str) or name not in allowed:
        raise SecurityError(
            f"{path}={name} is no class of this package; if you trust it, permit it for your command: "
            f"{PERMISSION}={name} ip2p-train ..."
        )


def is_entry(path: str) -> bool:
    """Whether a path is that of the class of an entry of the two groups, and of nothing inside it."""
    group, _, rest = path.partition(".")
    return group in GROUPS and rest.count(".") == 1 and rest.endswith("._target_")


def check_entries(config: Mapping[str, Any]) -> None:
    """Hold the entries of both groups against what they may be. Raises UserError or SecurityError."""
    for group in GROUPS:
        entries = config.get(group) or {}
        if not isinstance(entries, Mapping):
            raise UserError(f"{group}={entries}: give entries, each with a _target_")
        for name, node in entries.items():
            if node is not None:
                _class_of(group, name, node)


def make_entries(config: Mapping[str, Any], group: str, folder: Path) -> list[Any]:
    """The callbacks or loggers of a checked config; one that takes a `folder` gets the run's."""
    found = config.get(group) or {}
    return [_make(_class_of(group, name, node), node, folder) for name, node in found.items() if node is not None]


def _make(kind: type, node: Mapping[str, Any], folder: Path) -> Any:
    from hydra.utils import instantiate

    given = instantiate({key: value for key, value in node.items() if key != "_target_"}, _convert_="all")
    return kind(**given, **({"folder": folder} if "folder" in inspect.signature(kind).parameters else {}))


def _class_of(group: str, name: str, node: Any) -> type:
    """The class of an entry: permitted, and exactly a callback or a logger. Imported only where it is permitted."""
    path = f"{group}.{name}"
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{path}={node} has no _target_; choose the member that it is for: {group}=[...,{name}]")
    if wrong := {"_partial_", "folder"} & set(node):
        raise UserError(f"{path}.{min(wrong)} is set by the run: take it out")
    permit(f"{path}._target_", node["_target_"])
    kind = import_target(node["_target_"], asked=path)
    module, base = GROUPS[group]
    if not (inspect.isclass(kind) and issubclass(kind, getattr(importlib.import_module(module), base))):
        raise SecurityError(f"{path}._target_={node['_target_']} is no subclass of {module}.{base}")
    return kind
