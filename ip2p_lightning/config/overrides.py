"""What a run's command line changed: the hyperparameters by which runs are told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Scalar = bool | int | float | str
_WORD = re.compile(r"\+{0,2}([^=]+)=(.*)", re.DOTALL)


def hyperparameters(status: Mapping[str, Any]) -> dict[str, Scalar]:
    """The overrides in a run's status, in their order, without the keys that do not change what is learnt.

    >>> hyperparameters({"overrides": ["prompts=name", "optimizer.lr=1e-3", "log_every=5"]})
    {'prompts': 'name', 'optimizer.lr': 0.001}
    """
    found = {}
    for key, value in _pairs(status.get("overrides") or ()):
        if not is_free(key) and not key.startswith("hydra"):
            found[key] = scalar(value)
    return found


def is_free(key: str, free: Iterable[str] = ()) -> bool:
    """Whether a dotted key is one of FREE_KEYS or of `free`, or lies within one."""
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in (*FREE_KEYS, *free))


def _pairs(overrides: Iterable[Any]) -> Iterable[tuple[str, str]]:
    for word in overrides:
        if match := _WORD.fullmatch(str(word)):
            yield match[1], match[2]
        elif str(word).startswith("~"):
            yield str(word)[1:], "removed"


def scalar(text: str) -> Scalar:
    """A value as typed: a number or truth value where it reads as one, else the text without its quotes."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


# Keys that do not change what is learnt: they may differ when a run is continued.
FREE_KEYS = (
    "callbacks",
    "logger",
    "timeout",
    "trainer.devices",
    "resume",
    "resume_allow",
    "dry_run",
    "cache_dir",
    "log_every",
    "keep",
    "loader.workers",
    "loader.pin_memory",
    "loader.timeout",
    "model.gradient_checkpointing",
    "loader.max_bad",
)
