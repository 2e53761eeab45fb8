"""Runs grouped into arms: the same overrides, whatever the seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ip2p_lightning.errors import UserError, suggest
from ip2p_lightning.evaluation.report.runs import RunSummary

DEFAULT = "default"  # what a key that a run did not override stands at
_ORDER = [(split, prompts) for split in ("test", "val", "train") for prompts in ("heldout", "seen")]


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and its range."""

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        found = list(values)
        return cls(fmean(found), min(found), max(found), len(found)) if found else None

    def text(self, form: str = ".2f") -> str:
        """The mean, with the range in brackets where there is one."""
        mean, low, high = (format(x, form) for x in (self.mean, self.low, self.high))
        return mean if low == high else f"{mean} ({low}{' to ' if form.startswith('+') else '–'}{high})"


@dataclass(frozen=True)
class Arm:
    """What was tried: some values of some keys, in one or more complete runs."""

    label: str
    cells: tuple[RunSummary, ...]

    def values(self, section: tuple[str, str], method: str, task: str | None, score: str = "psnr") -> dict[str, float]:
        """The score of each run by its name; without a task the mean over tasks."""
        found = {}
        for cell in self.cells:
            rows = [s for s in cell.scores if (s.split, s.prompts) == section and s.method == method]
            rows = [s for s in rows if task in (None, s.task)]
            if rows:
                found[cell.name] = fmean(getattr(s, score) for s in rows)
        return found

    def gains(self, section: tuple[str, str], task: str | None, method: str = "model") -> dict[str, float]:
        """Each run's PSNR above that of its own identity edit."""
        model, identity = (self.values(section, name, task) for name in (method, "identity"))
        return {name: model[name] - identity[name] for name in model if name in identity}

    def seeds(self, section: tuple[str, str]) -> str:
        """The seeds of the runs that were scored there."""
        scored = self.values(section, "model", None)
        return ", ".join(sorted({str(cell.seed) for cell in self.cells if cell.name in scored}))


def group(cells: Sequence[RunSummary], by: Sequence[str] = ()) -> tuple[list[Arm], dict[str, Any]]:
    """The arms of the complete runs, and the overrides that all runs share.

    Args:
        cells: runs.
        by: keys that make an arm, in this order; without any, all overrides that differ.

    Raises:
        UserError: a key of `by` that no run knows.
    """
    done = [cell for cell in cells if cell.state == "complete"]
    tables = [cell.hyperparameters for cell in done]
    known = list(dict.fromkeys(key for table in tables for key in table))
    shared = {k: tables[0][k] for k in known if all(k in t and t[k] == tables[0][k] for t in tables)}
    if by:
        _refuse_unknown(by, done, known)
    keys = by or [key for key in known if key not in shared]
    groups: dict[tuple[Any, ...], list[RunSummary]] = {}
    for cell in done:
        groups.setdefault(tuple(_value(cell, key) for key in keys), []).append(cell)
    ordered = sorted(groups.items(), key=lambda item: [_rank(value) for value in item[0]])
    return [Arm(_label(keys, values), tuple(found)) for values, found in ordered], shared


def sections(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """The (split, prompts) that were scored, the strictest first: held-out photos and instructions."""
    found = {(score.split, score.prompts) for arm in arms for cell in arm.cells for score in cell.scores}
    return sorted(found, key=lambda pair: (_ORDER.index(pair) if pair in _ORDER else len(_ORDER), pair))


def tasks(arms: Sequence[Arm], section: tuple[str, str]) -> list[str]:
    """The tasks of a section, in the order of the scores."""
    rows = (score for arm in arms for cell in arm.cells for score in cell.scores)
    return list(dict.fromkeys(score.task for score in rows if (score.split, score.prompts) == section))


def _label(keys: Sequence[str], values: Sequence[Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True)) or "all runs"


def _value(cell: RunSummary, key: str) -> Any:
    if key in cell.hyperparameters:
        return cell.hyperparameters[key]
    node: Any = cell.config
    for part in key.split("."):
        node = node.get(part, DEFAULT) if isinstance(node, Mapping) else DEFAULT
    return DEFAULT if isinstance(node, Mapping) else node


def _rank(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _refuse_unknown(by: Sequence[str], cells: Sequence[RunSummary], known: Sequence[str]) -> None:
    for key in by:
        if cells and all(_value(cell, key) == DEFAULT for cell in cells):
            words = ", ".join(known) or "none"
            raise UserError(f"--by {key}: no run was given it{suggest(key, known)}; the runs' overrides: {words}")
