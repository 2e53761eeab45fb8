"""Whether a YAML value fits a type hint, and how to say it."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union


def conforms(value: Any, hint: Any) -> bool:
    """Whether a value from YAML fits a type hint."""
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(conforms(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if hint in _SCALARS:
        return _SCALARS[hint](value)
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (not args or all(conforms(v, args[1]) for v in value.values()))
    if inspect.isclass(kind) and issubclass(kind, tuple | Sequence):
        return isinstance(value, list | tuple) and _items_conform(value, kind, args)
    return isinstance(value, Mapping) and "_target_" in value


def class_of(hint: Any) -> type | None:
    """The class in a hint (or in its union) that a ``_target_`` should build; None for data and protocols."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next(filter(None, map(class_of, typing.get_args(hint))), None)
    plain = hint in _SCALARS or hint is Any or not inspect.isclass(hint) or issubclass(hint, Mapping | Sequence)
    return None if plain or getattr(hint, "_is_protocol", False) else hint


_SCALARS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda v: isinstance(v, bool),
    int: lambda v: isinstance(v, int) and not isinstance(v, bool),
    float: lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    str: lambda v: isinstance(v, str),
    Path: lambda v: isinstance(v, str),
    None: lambda v: v is None,
    type(None): lambda v: v is None,
    object: lambda v: True,
}


_WORDS: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
_WORDS |= {type(None): "null", Path: "a path"}


def _items_conform(value: Sequence[Any], kind: type, args: tuple[Any, ...]) -> bool:
    if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(map(conforms, value, args))
    return not args or all(conforms(item, args[0]) for item in value)


def describe(hint: Any) -> str:
    """A type hint in YAML terms."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(a) for a in args))
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if hint in _WORDS:
        return _WORDS[hint]
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a mapping"
    if inspect.isclass(kind) and issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        return "[" + ", ".join(map(describe, args)) + "]"
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        return "a list"
    return f"a {getattr(kind, '__name__', kind)} (a group member)"
