"""Numbers out of range, refused before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ip2p_lightning.errors import UserError

# What must not be smaller, null apart.
_LEAST = {
    "callbacks.image_grids.examples": 0,
    "callbacks.profiler.steps": 1,
    "max_skips": 0,
    "optimizer.eps": 0,
    "optimizer.weight_decay": 0,
    "timeout": 1,
    "trainer.gradient_clip_val": 0,
    "val_examples": 1,
}


def in_range(config: Mapping[str, Any]) -> None:
    """Raise UserError for a number of `config` that is not finite, or too small; types have been checked."""
    for key, value in _numbers(config, ""):
        if not math.isfinite(value):
            raise UserError(f"{key}={value}: give a finite number")
        if value < _LEAST.get(key, value):
            raise UserError(f"{key}={value}: give {_LEAST[key]} or more")


def _numbers(node: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _numbers(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from _numbers(value, f"{path}[{place}]")
    elif isinstance(node, int | float):
        yield path, node
