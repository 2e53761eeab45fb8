"""Callbacks and loggers: the two groups in which a config may name a user's own classes.

Only this process's environment permits them, by exact names. A config cannot: it has no key for it, and
``hydra_guard`` refuses ``hydra.job.env_set``.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.config.allowed_targets import ALLOWED_TARGETS, built, import_target
from ip2p_lightning.errors import SecurityError, UserError

PERMISSION = "IP2P_ALLOW_TARGETS"  # comma-separated names of classes
GROUPS = {"callbacks": ("lightning.pytorch", "Callback"), "logger": ("lightning.pytorch.loggers", "Logger")}


def permit(path: str, name: Any) -> None:
    """Raise SecurityError unless the class `name` may stand at ``GROUP.ENTRY._target_``."""
    allowed = {word.strip() for word in os.environ.get(PERMISSION, "").split(",")} | ALLOWED_TARGETS
    if not isinstance(name, str) or name not in allowed:
        raise SecurityError(
            f"{path}={name} is not a class of this package; if you trust it, permit it for your command: "
            f"{PERMISSION}={name} ip2p-train ..."
        )


def is_entry(path: str) -> bool:
    """Whether a path is ``GROUP.ENTRY._target_`` of one of the two groups."""
    group, _, rest = path.partition(".")
    return group in GROUPS and rest.count(".") == 1 and rest.endswith("._target_")


def check_entries(config: Mapping[str, Any]) -> None:
    """Check the entries of both groups. Raises UserError or SecurityError."""
    for group in GROUPS:
        entries = config.get(group) or {}
        if not isinstance(entries, Mapping):
            raise UserError(f"{group}={entries}: give entries, each with a _target_")
        for name, node in entries.items():
            if node is not None:
                _class_of(group, name, node)


def make_entries(config: Mapping[str, Any], group: str, folder: Path) -> list[Any]:
    """The callbacks or loggers of a checked config; one that takes a `folder` gets the run's."""
    made = []
    for name, node in (config.get(group) or {}).items():
        if node is not None:
            kind = _class_of(group, name, node)
            given = {key: built(value) for key, value in node.items() if key != "_target_"}
            made.append(kind(**given, **({"folder": folder} if "folder" in inspect.signature(kind).parameters else {})))
    return made


def _class_of(group: str, name: str, node: Any) -> type:
    """The class of an entry, a callback or a logger; it is imported only if it is permitted."""
    path = f"{group}.{name}"
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{path}={node} has no _target_; choose its group member: {group}=[...,{name}]")
    if wrong := {"_partial_", "folder"} & set(node):
        raise UserError(f"{path}.{min(wrong)} is set by the framework: remove it")
    permit(f"{path}._target_", node["_target_"])
    kind = import_target(node["_target_"], asked=path)
    module, base = GROUPS[group]
    if not (inspect.isclass(kind) and issubclass(kind, getattr(importlib.import_module(module), base))):
        raise SecurityError(f"{path}._target_={node['_target_']} is no subclass of {module}.{base}")
    return kind
