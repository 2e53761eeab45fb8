"""The report's plot: every configuration on every task, and gain against cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from ip2p_lightning.evaluation.report.configurations import MEAN, Comparison, per_run
from ip2p_lightning.evaluation.report.markdown import where

INK, GREY, FAINT = "#1d1d20", "#77777d", "#e4e4e8"
COLOURS = ("#1f6f8b", "#d1603d", "#5b8c3e", "#8a5a9e", "#c29b2b", "#3f5f9f", "#a84a6a", "#4d8f86")


def draw_plot(found: Comparison) -> bytes | None:
    """A PNG of the strictest section that was scored, None without scores; the same runs give the same bytes."""
    from matplotlib.figure import Figure

    if not found.sections():
        return None
    section = found.sections()[0]
    tables = per_run(found.section(section), "psnr")
    labels = tables["model"].index.unique("configuration")
    tasks = tables["model"].columns.drop(MEAN)
    height = 1.7 + 0.42 * len(labels)
    figure = Figure(figsize=(max(8.5, 2.3 * len(tasks) + 1.6), height + 3.3), dpi=130, layout="constrained")
    figure.patch.set_facecolor("white")
    parts: Any = figure.subfigures(2, 1, height_ratios=[height, 3.3])
    upper, lower = parts
    upper.suptitle(f"Gain in PSNR over the identity baseline: {where(section)}", color=INK)
    _dots(upper.subplots(1, len(tasks), sharey=True, squeeze=False)[0], tables, labels, tasks)
    _pareto(lower.subplots(), tables["gain"][MEAN], found.runs.dropna(subset="configuration"))
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _dots(axes: Sequence[Any], tables: Mapping[str, pd.DataFrame], labels: Sequence[str], tasks: Sequence[str]) -> None:
    """Per task: a dot for each run, a bar at the configuration's mean, hollow dots for the wrong instruction.

    Gains, not PSNR: the identity baseline differs from seed to seed, as each draws its own degradations.
    """
    wrong = (tables["wrong_instruction"] - tables["identity"]).dropna(how="all")
    for axis, task in zip(axes, tasks, strict=True):
        axis.axvline(0, ls="--", color=GREY, lw=1.2)
        for row, label in enumerate(labels):
            colour = COLOURS[row % len(COLOURS)]
            left, right = (list(_of(table, label)[task].dropna()) for table in (wrong, tables["gain"]))
            axis.plot(left, [row + 0.2] * len(left), "o", ms=5, mfc="white", mec=colour, mew=1.1)
            axis.plot(right, [row] * len(right), "o", ms=6, color=colour, alpha=0.8, mew=0)
            if right:
                axis.plot([fmean(right)] * 2, [row - 0.27, row + 0.27], color=colour, lw=2.2)
        _clean(axis)
        axis.margins(x=0.08)
        axis.set_title(task, fontsize=11, color=INK)
        axis.set_xlabel("gain, dB", fontsize=9)
    axes[0].set_yticks(range(len(labels)), labels, fontsize=9)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    _legend(axes[0].figure, len(wrong) > 0)


def _of(table: pd.DataFrame, label: str) -> pd.DataFrame:
    return table[table.index.get_level_values("configuration") == label]


def _legend(figure: Any, wrong: bool) -> None:
    from matplotlib.lines import Line2D

    keys = [
        Line2D([], [], marker="o", ls="", color=INK, ms=6, label="a run"),
        Line2D([], [], marker="|", ls="", color=INK, ms=11, mew=2.2, label="mean of the configuration"),
        Line2D([], [], ls="--", color=GREY, label="identity baseline"),
        Line2D([], [], marker="o", ls="", mfc="white", mec=INK, ms=5, label="wrong instruction"),
    ]
    look = {"ncols": 4, "fontsize": 8, "frameon": False, "labelcolor": INK}
    figure.legend(handles=keys if wrong else keys[:-1], loc="outside lower center", **look)


def _pareto(axis: Any, gains: pd.Series, runs: pd.DataFrame) -> None:
    """Mean gain against training time (or images, if no time is known), and the Pareto front."""
    timed = bool((runs["seconds"] > 0).all())
    costs = runs.set_index(["configuration", "run"])["seconds" if timed else "images"].astype(float)
    points = pd.DataFrame({"cost": costs, "gain": gains}).dropna().query("cost > 0")
    groups = points.groupby(level="configuration", observed=True)
    for row, label in enumerate(gains.index.unique("configuration")):
        here, colour = _of(points, label), COLOURS[row % len(COLOURS)]
        if len(here):
            axis.plot(here["cost"], here["gain"], "o", ms=4.5, color=colour, alpha=0.45, mew=0)
            axis.plot(*here.mean(), "D", ms=8, color=colour, label=label)
    front = _front(groups.mean())
    if len(front) > 1:
        axis.step(front["cost"], front["gain"], where="post", color=GREY, lw=1, zorder=0)
    _clean(axis)
    axis.margins(x=0.12, y=0.18)
    axis.set_xlim(left=0)
    axis.set_title("Gain against cost: diamonds are configurations, dots their runs", fontsize=11, color=INK)
    axis.set_xlabel("seconds of training, validation included" if timed else "images seen in training", fontsize=9)
    axis.set_ylabel("mean gain, dB", fontsize=9)
    if 0 < len(groups) <= 12:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def _front(means: pd.DataFrame) -> pd.DataFrame:
    """The configurations that cost less than all others of at least their gain, cheapest first."""
    ordered = means.sort_values(["cost", "gain"], ascending=[True, False])
    return ordered[ordered["gain"] > ordered["gain"].cummax().shift(fill_value=float("-inf"))]


def _clean(axis: Any) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(FAINT)
    axis.grid(axis="both", color=FAINT, lw=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=8.5, length=0)
