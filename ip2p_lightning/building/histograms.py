"""Histograms as PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np


def histogram(label: str, values: Mapping[str, Sequence[float]]) -> bytes:
    """A stacked histogram, one colour per name, of `values` along an axis called `label`.

    One value alone is a bar of width one; whole numbers over a short range get a bar each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    kept = {name: np.asarray(v, dtype=float) for name, v in values.items() if len(v)}
    if kept:
        axes.hist(list(kept.values()), bins=_edges(np.concatenate(list(kept.values()))), stacked=True, label=list(kept))
        if len(kept) > 1:
            axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(label, fontsize=9)
    axes.set_ylabel("pairs", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.yaxis.get_major_locator().set_params(integer=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if np.all(values == np.round(values)) and high - low < 40:
        return np.arange(low - 0.5, high + 1)
    bars = int(np.clip(2 * np.sqrt(len(values)), 6, 40))
    return np.linspace(low, high, bars + 1) if high > low else np.array([low - 0.5, low + 0.5])
