"""Checks a config's keys, types and targets before anything is built.

The schema of a node is the signature of its ``_target_``. A config can name exactly the classes in ``allowed_targets``,
and callbacks and loggers that the environment permits (see ``extensions``).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ip2p_lightning.config.allowed_targets import ALLOWED_TARGETS, import_target
from ip2p_lightning.config.compose import CONF
from ip2p_lightning.config.extensions import check_entries, is_entry, permit
from ip2p_lightning.config.interpolation import refuse_interpolations
from ip2p_lightning.config.type_hints import class_of, conforms, describe
from ip2p_lightning.config.walk import walk
from ip2p_lightning.errors import SecurityError, UserError, suggest

# Keys that a loader may import.
_NAMES_CODE = {"_target_", "_instantiator", "_class_path", "_recursive_", "_args_"}
# Parameters that code passes, not a config.
_NOT_FROM_CONFIG = {"self", "params", "model_or_params", "unet", "autoencoder", "text_encoder", "objective", "sampler"}


def check(config: Mapping[str, Any], root: Callable[..., Any]) -> None:
    """Check a plain config against the signatures of its targets; `root` is the class of the top level.

    Raises:
        SecurityError: a ``_target_`` that is not on the list, or an interpolation.
        UserError: an unknown key or a value of the wrong type; the message names key and value and suggests a remedy.
    """
    refuse_interpolations(config)
    for path, value in walk(config):
        if is_entry(path):
            permit(path, value)
        elif path.rpartition(".")[2] in _NAMES_CODE and str(value) not in ALLOWED_TARGETS:
            near = suggest(value, ALLOWED_TARGETS)
            raise SecurityError(f"{path}={value} is not one of the classes a config may name{near}")
    check_entries(config)
    try:
        check_node(config, root, "")
    except _Fragment as fragment:
        raise UserError(fragment.message(config)) from None


class _Fragment(UserError):
    """Settings without their ``_target_``: an override replaced a shared node, or the node is missing."""

    def __init__(self, path: str, value: Mapping[str, Any], wanted: type) -> None:
        super().__init__(f"{path}={_short(value)} is for a {wanted.__name__}")
        self.path, self.value, self.wanted = path, value, wanted

    def message(self, config: Mapping[str, Any]) -> str:
        """The error message; `config` is the whole config."""
        given, last, key = f"{self.path}={_short(self.value)}", self.path.rpartition(".")[2], next(iter(self.value))
        if last in config:  # task.loader.size=1 replaces the whole ${loader} by {size: 1}
            return f"{given} would replace a node that is shared; set {last}.{key} instead"
        group = self.path.partition(".")[0]
        having = [f"{group}={f.stem}" for f in sorted((CONF / group).glob("*.yaml")) if f"\n{last}:" in f.read_text()]
        choice = f"choose {' or '.join(having)}, or " if having else ""
        return f"{given} is for a {self.wanted.__name__}, which is not here; {choice}remove it with '~{self.path}'"


def check_node(node: Mapping[str, Any], target: Callable[..., Any], path: str) -> None:
    """Check the plain node at `path` against the signature of its target. Raises UserError."""
    hints, names, open_ended = _parameters(target)
    names = [n for n in names if n not in _NOT_FROM_CONFIG] if "_target_" in node else names
    for key, value in node.items():
        here = f"{path}.{key}" if path else key
        if key in ("_target_", "_partial_"):
            continue
        if key not in names and not open_ended:
            raise UserError(f"unknown key {here}={_short(value)}{suggest(key, names)}")
        _check_value(value, hints.get(key, Any), here)


def _check_value(value: Any, hint: Any, path: str) -> None:
    if isinstance(value, Mapping):
        if "_target_" in value:
            check_node(value, import_target(value["_target_"]), path)
            return
        _check_members(value, hint, path)
    if not conforms(value, hint):
        raise UserError(f"{path}={_short(value)} has the wrong type or value: expected {describe(hint)}")


def _check_members(value: Mapping[str, Any], hint: Any, path: str) -> None:
    """Check the members of a mapping without a target. Raises _Fragment where it should have one."""
    node = class_of(hint)
    if node is not None:
        check_node(value, node, path)
        raise _Fragment(path, value, node)
    named = [k for k, v in value.items() if isinstance(v, Mapping) and "_target_" in v]
    for key, child in value.items():
        if named and isinstance(child, Mapping) and "_target_" not in child:
            raise UserError(f"unknown key {path}.{key}={_short(child)}{suggest(key, named)}")
        if isinstance(child, Mapping):
            _check_value(child, Any, f"{path}.{key}")


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, Any], list[str], bool]:
    """Type hints and names of the parameters of a class or function, and whether it takes any keyword."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # a library's types that only a type checker imports
        hints = {}
    parameters = inspect.signature(target).parameters.values()
    names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    return hints, names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
