"""Let lightning import torchmetrics' two base classes without its hundred metrics: 2.5 of 11 CPU seconds of a start.

Lightning asks torchmetrics for ``Metric`` and ``MetricCollection`` only, but its own ``__init__`` imports every
metric, and with them scipy.signal, all of torchvision and transformers' BERT. Here the package is put in place without
running its ``__init__``, which runs as soon as anybody asks it for any other name: nothing is missing, and nothing is
another class than it would be. Submodules import as ever. Both classes import matplotlib, for their method ``plot``:
for these two it comes when that is called (0.4 s more).
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ip2p_lightning._deferred import Deferred, complete, defer

_HOMES = {
    "Metric": "torchmetrics.metric",
    "MetricCollection": "torchmetrics.collections",
    "__version__": "torchmetrics.__about__",
}
_PLOT = "torchmetrics.utilities.plot"


class _Torchmetrics(Deferred):
    """The package; both classes can be had before its ``__init__`` has run."""

    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            try:
                with _plot_later():
                    importlib.import_module("torchmetrics.utilities")  # first: metric and utilities import one another
                    return getattr(importlib.import_module(_HOMES[name]), name)
            except ImportError:  # a version that is laid out otherwise: the ordinary, slower way
                for loaded in [n for n in sys.modules if n.startswith("torchmetrics.")]:
                    del sys.modules[loaded]
                return complete(self, name)
        return super().__getattr__(name)


def defer_metrics() -> None:
    """Put torchmetrics in place as described above, unless it is absent, or loaded already."""
    package: Any = defer("torchmetrics", _Torchmetrics)
    if package is not None:
        package._logger = logging.getLogger("torchmetrics")  # its submodules ask for it


class _Axes(type):
    """The type of torchmetrics' ``_AX_TYPE``, for those who ask whether something is one: matplotlib knows."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, importlib.import_module(_PLOT)._AX_TYPE)


@contextmanager
def _plot_later() -> Iterator[None]:
    """A stand-in for torchmetrics' module of plots, for those who import it meanwhile; afterwards it is as ever."""
    if _PLOT in sys.modules:
        yield
        return
    later: Any = types.ModuleType(_PLOT)
    later.plot_single_or_multi_val = _plot
    later._AX_TYPE, later._PLOT_OUT_TYPE = _Axes("Axes", (), {}), Any
    sys.modules[_PLOT] = later
    try:
        yield
    finally:
        sys.modules.pop(_PLOT, None)


def _plot(*values: Any, **options: Any) -> Any:
    """torchmetrics' function of this name, imported when it is called."""
    return importlib.import_module(_PLOT).plot_single_or_multi_val(*values, **options)
