"""The hyperparameters that a run's command line sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Scalar = bool | int | float | str
_WORD = re.compile(r"\+{0,2}([^=]+)=(.*)", re.DOTALL)


def hyperparameters(status: Mapping[str, Any]) -> dict[str, Scalar]:
    """The overrides in a run's status, in order, without the keys that do not affect the result.

    >>> hyperparameters({"overrides": ["prompts=name", "optimizer.lr=1e-3", "log_every=5"]})
    {'prompts': 'name', 'optimizer.lr': 0.001}
    """
    pairs = _pairs(status.get("overrides") or ())
    return {key: scalar(value) for key, value in pairs if not is_free(key) and not key.startswith("hydra")}


def is_free(key: str, free: Iterable[str] = ()) -> bool:
    """Whether a dotted key is one of FREE_KEYS or of `free`, or lies within one."""
    return within(key, (*FREE_KEYS, *free))


def within(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted key is one of `names`, or lies within one."""
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in names)


def _pairs(overrides: Iterable[Any]) -> Iterable[tuple[str, str]]:
    for word in overrides:
        if match := _WORD.fullmatch(str(word)):
            yield match[1], match[2]
        elif str(word).startswith("~"):
            yield str(word)[1:], "removed"


def scalar(text: str) -> Scalar:
    """A typed value as a bool, an int or a float where it reads as one, else the text without its quotes."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


# Keys that do not affect the result: they may differ when a run is continued.
FREE_KEYS = (
    *("callbacks", "logger", "timeout", "resume", "resume_allow", "dry_run", "cache_dir", "log_every", "keep"),
    *("loader.workers", "loader.pin_memory", "loader.timeout", "loader.max_bad"),
    *("trainer.devices", "model.gradient_checkpointing"),
)
