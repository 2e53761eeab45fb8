"""CPU seconds of actions that take turns: what disturbs the machine for a while disturbs them all."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def cpu_seconds(action: Callable[[], Any]) -> float:
    """Of one call, with the child processes that ended meanwhile."""
    began = _spent()
    action()
    return _spent() - began


def in_turn(sides: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """CPU seconds of each side, once a round."""
    found: dict[Any, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, action in sides.items():
            found[name].append(cpu_seconds(action))
    return found


def ratios(first: list[float], second: list[float]) -> dict[str, float]:
    """How many times as long the first takes: by minima, and the median over the rounds."""
    median = statistics.median(a / b for a, b in zip(first, second, strict=True))
    return {"ratio of minima": round(min(first) / min(second), 3), "median ratio": round(median, 3)}


def _spent() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
