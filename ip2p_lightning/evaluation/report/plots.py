"""The report's picture: every arm on every task, and what the gain costs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ip2p_lightning.evaluation.report.arms import Arm, sections, tasks
from ip2p_lightning.evaluation.report.markdown import PROMPTS, SPLITS

INK, GREY, FAINT = "#1d1d20", "#77777d", "#e4e4e8"
COLOURS = ("#1f6f8b", "#d1603d", "#5b8c3e", "#8a5a9e", "#c29b2b", "#3f5f9f", "#a84a6a", "#4d8f86")
Section = tuple[str, str]


def draw(arms: Sequence[Arm]) -> bytes | None:
    """A PNG for the strictest section that was scored, None without scores; the same runs give the same bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    found = sections(arms)
    if not found:
        return None
    section = found[0]
    arms = [arm for arm in arms if arm.values(section, "model", None)]
    columns = tasks(arms, section)
    height = 1.7 + 0.42 * len(arms)
    figure = Figure(figsize=(max(8.5, 2.3 * len(columns) + 1.6), height + 3.3), dpi=130, layout="constrained")
    figure.patch.set_facecolor("white")
    upper, lower = figure.subfigures(2, 1, height_ratios=[height, 3.3])
    where = f"{SPLITS.get(section[0], section[0])}, {PROMPTS.get(section[1], section[1])}"
    upper.suptitle(f"Gain in PSNR over doing nothing: {where}", color=INK)
    _dots(upper.subplots(1, len(columns), sharey=True, squeeze=False)[0], arms, section, columns)
    _pareto(lower.subplots(), arms, section)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _dots(axes: Sequence[Any], arms: Sequence[Arm], section: Section, columns: Sequence[str]) -> None:
    """Per task: a dot for each run, a bar at the arm's mean, hollow dots for the wrong instruction.

    Gains, not PSNR: the identity edit scores differently from seed to seed, as each draws its own degradations.
    """
    for axis, task in zip(axes, columns, strict=True):
        axis.axvline(0, ls="--", color=GREY, lw=1.2)
        for row, arm in enumerate(arms):
            colour = _colour(row)
            right, wrong = (list(arm.gains(section, task, m).values()) for m in ("model", "wrong_instruction"))
            axis.plot(wrong, [row + 0.2] * len(wrong), "o", ms=5, mfc="white", mec=colour, mew=1.1)
            axis.plot(right, [row] * len(right), "o", ms=6, color=colour, alpha=0.8, mew=0)
            if right:
                axis.plot([fmean(right)] * 2, [row - 0.27, row + 0.27], color=colour, lw=2.2)
        _clean(axis)
        axis.margins(x=0.08)
        axis.set_title(task, fontsize=11, color=INK)
        axis.set_xlabel("gain, dB", fontsize=9)
    axes[0].set_yticks(range(len(arms)), [arm.label for arm in arms], fontsize=9)
    axes[0].set_ylim(len(arms) - 0.4, -0.6)
    _legend(axes[0].figure, any(arm.values(section, "wrong_instruction", None) for arm in arms))


def _legend(figure: Any, wrong: bool) -> None:
    from matplotlib.lines import Line2D

    keys = [
        Line2D([], [], marker="o", ls="", color=INK, ms=6, label="a run"),
        Line2D([], [], marker="|", ls="", color=INK, ms=11, mew=2.2, label="mean of the arm"),
        Line2D([], [], ls="--", color=GREY, label="doing nothing"),
        Line2D([], [], marker="o", ls="", mfc="white", mec=INK, ms=5, label="wrong instruction"),
    ]
    look = {"ncols": 4, "fontsize": 8, "frameon": False, "labelcolor": INK}
    figure.legend(handles=keys if wrong else keys[:-1], loc="outside lower center", **look)


def _pareto(axis: Any, arms: Sequence[Arm], section: Section) -> None:
    """Mean gain against training time (images where time is not known), and the arms that no other beats in both."""
    timed = all(cell.seconds for arm in arms for cell in arm.cells)
    points = []
    for row, arm in enumerate(arms):
        gains = arm.gains(section, None)
        costs = {c.name: (c.seconds if timed else c.images) for c in arm.cells}
        runs = [(costs[name], gain) for name, gain in gains.items() if costs.get(name)]
        if runs:
            mean = fmean(c for c, _ in runs), fmean(g for _, g in runs)
            points.append((*mean, row))
            axis.plot(*zip(*runs, strict=True), "o", ms=4.5, color=_colour(row), alpha=0.45, mew=0)
            axis.plot(*mean, "D", ms=8, color=_colour(row), label=arm.label)
    front = _front(points)
    if len(front) > 1:
        axis.step(*zip(*front, strict=True), where="post", color=GREY, lw=1, zorder=0)
    _clean(axis)
    axis.margins(x=0.12, y=0.18)
    axis.set_xlim(left=0)
    axis.set_title("What the gain costs: diamonds are arms, dots their runs", fontsize=11, color=INK)
    axis.set_xlabel("seconds of training, validation included" if timed else "images seen in training", fontsize=9)
    axis.set_ylabel("mean gain, dB", fontsize=9)
    if len(points) <= 12:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def _front(points: Sequence[tuple[float, float, int]]) -> list[tuple[float, float]]:
    """The arms that cost less than any other of at least their gain, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, gain, _ in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def _colour(row: int) -> str:
    return COLOURS[row % len(COLOURS)]


def _clean(axis: Any) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(FAINT)
    axis.grid(axis="both", color=FAINT, lw=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=8.5, length=0)
