"""Runs grouped into configurations (the same overrides, whatever the seed), and their scores as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ip2p_lightning.config.walk import get
from ip2p_lightning.errors import UserError, suggest
from ip2p_lightning.evaluation.report.runs import RunSummary, Score
from ip2p_lightning.evaluation.score_table import METHODS
from ip2p_lightning.system.escaping import csv_cell

DEFAULT = "default"  # the value of a key that a run does not override
MEAN = "mean"  # over tasks, beside them
_ORDER = [(split, prompts) for split in ("test", "val", "train") for prompts in ("heldout", "seen")]
_KINDS = {"step": "Int64", "images": "Int64", "seconds": float, "peak_memory_mb": float}  # also where all are missing
_COLUMNS = [
    *("configuration", "run", "seed", "state", "reason", "method", "task", "split", "prompts", "psnr", "ssim", "n"),
    *("scored_step", "weights", "step", "images", "seconds", "peak_memory_mb", "commit"),
]
_FORMS = {"psnr": "{:.4f}", "ssim": "{:.5f}", "n": "{:.0f}", "seconds": "{:.1f}", "peak_memory_mb": "{:.0f}"}
Section = tuple[str, str]  # split, prompts


@dataclass(frozen=True)
class Comparison:
    """Runs and their scores as tables."""

    runs: pd.DataFrame  # one row per run; its `configuration` is empty unless it is complete
    scores: pd.DataFrame  # one row per run, method, task, split and kind of prompts
    shared: Mapping[str, Any]  # the overrides that all complete runs have

    def configurations(self) -> list[str]:
        """Their labels, in order of the values that differ."""
        return list(self.runs["configuration"].cat.categories)

    def sections(self) -> list[Section]:
        """The (split, prompts) that were scored, the strictest first: held-out photos and instructions."""
        found = set(self._complete()[["split", "prompts"]].itertuples(index=False, name=None))
        return sorted(found, key=lambda pair: (_ORDER.index(pair) if pair in _ORDER else len(_ORDER), pair))

    def section(self, section: Section) -> pd.DataFrame:
        """The scores of the complete runs there."""
        rows = self._complete()
        return rows[(rows["split"] == section[0]) & (rows["prompts"] == section[1])]

    def _complete(self) -> pd.DataFrame:
        return self.scores.dropna(subset="configuration").sort_values("configuration", kind="stable")


def per_run(rows: pd.DataFrame, score: str) -> dict[str, pd.DataFrame]:
    """A section's scores by method: one row per (configuration, run), one column per task and their mean.

    "gain" is the model minus the identity baseline of the same run: the original image, unedited.
    """
    tasks, found = list(rows["task"].unique()), {}
    for method in METHODS:
        table = rows[rows["method"] == method].pivot_table(score, ["configuration", "run"], "task", observed=True)
        found[method] = table.reindex(columns=tasks).assign(**{MEAN: lambda table: table.mean(axis=1)})
    return found | {"gain": found["model"] - found["identity"]}


def compare(summaries: Sequence[RunSummary], by: Sequence[str] = ()) -> Comparison:
    """Group the complete runs of `collect` into configurations by the values of the keys `by`, in this order.

    Without any, all overrides that differ make a configuration. Raises UserError for a key that no run has.
    """
    done = [run for run in summaries if run.state == "complete"]
    given = [run.hyperparameters for run in done]
    known = list(dict.fromkeys(key for overrides in given for key in overrides))
    shared = {k: given[0][k] for k in known if all(k in one and one[k] == given[0][k] for one in given)}
    if by:
        _check_known(by, done, known)
    keys = by or [key for key in known if key not in shared]
    done.sort(key=lambda run: [_rank(_value(run, key)) for key in keys])
    labels = {run.name: " ".join(f"{key}={_value(run, key)}" for key in keys) or "all runs" for run in done}
    runs = pd.DataFrame([_run_row(run) for run in summaries]).astype(_KINDS)
    scores = pd.DataFrame(
        [{"run": run.name, "seed": run.seed, **vars(score)} for run in summaries for score in run.scores],
        columns=["run", "seed", *Score.__dataclass_fields__],
    )
    for table in (runs, scores):
        table.insert(0, "configuration", pd.Categorical(table["run"].map(labels), list(dict.fromkeys(labels.values()))))
    return Comparison(runs, scores, shared)


def _run_row(run: RunSummary) -> dict[str, Any]:
    row = {"run": run.name, "seed": run.seed, "state": run.state, "reason": run.reason}
    row |= {"images": run.images, "seconds": run.seconds, "peak_memory_mb": run.memory}
    return row | {key: run.status.get(key) for key in ("step", "commit", "command")}


def _value(run: RunSummary, key: str) -> Any:
    if key in run.hyperparameters:
        return run.hyperparameters[key]
    node = get(run.config, key, DEFAULT)
    return DEFAULT if isinstance(node, Mapping) else node


def _rank(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _check_known(by: Sequence[str], runs: Sequence[RunSummary], known: Sequence[str]) -> None:
    for key in by:
        if runs and all(_value(run, key) == DEFAULT for run in runs):
            words = ", ".join(known) or "none"
            raise UserError(f"--by {key}: no run overrides it{suggest(key, known)}; the runs' overrides: {words}")


def as_csv(found: Comparison) -> bytes:
    """All runs as CSV, one row per run, method and task; a run without scores has one row."""
    scores = found.scores.drop(columns=["configuration", "seed"]).replace({"n": {0: None}})
    table = found.runs.merge(scores, on="run", how="left")
    for column, form in _FORMS.items():
        table[column] = table[column].map(form.format, na_action="ignore")
    table = table[_COLUMNS].apply(lambda column: column.map(csv_cell))
    return table.to_csv(index=False, lineterminator="\n").encode()
