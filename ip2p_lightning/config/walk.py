"""Walking nested plain data: dicts, lists and scalars, by dotted paths such as ``task.weights`` and ``betas[0]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every (path, value) below `node`; a container comes before what it holds."""
    if isinstance(node, Mapping):
        inner = [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
    else:
        inner = [(f"{path}[{i}]", value) for i, value in enumerate(node)] if isinstance(node, list | tuple) else []
    for here, value in inner:
        yield here, value
        yield from walk(value, here)


def scalars(node: Any) -> Iterator[tuple[str, Any]]:
    """Every (path, value) below `node` that holds nothing itself."""
    return ((path, value) for path, value in walk(node) if not isinstance(value, Mapping | list | tuple))


def get(config: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """The value at a path of keys, `default` where there is none."""
    node: Any = config
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return default
        node = node[key]
    return node
