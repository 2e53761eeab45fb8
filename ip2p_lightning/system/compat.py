"""Make a torchvision importable whose compiled part does not fit the installed torch.

A CUDA build of torchvision beside a CPU build of torch fails at import with "operator torchvision::nms does not exist",
and takes lightning, torchmetrics, timm and diffusers with it. Nothing here uses those operators: declaring their
schemas is enough. Where the compiled part loads, nothing is touched.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ip2p_lightning.system.imports import Deferred, complete, defer

_declared = []  # keeps the library alive: its operators vanish with it


class _Mender:
    """A finder of modules that finds none, but is asked first; it leaves with its first answer."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing()


def mend_torchvision() -> None:
    """See to it that torchvision can be imported, when somebody does."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _Mender())


def _declare_missing() -> None:
    """Declare torchvision's two operator schemas if its extension cannot be loaded."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    import torch

    extensions = sorted(Path(spec.submodule_search_locations[0]).glob("_C*.so"))
    try:
        torch.ops.load_library(str(extensions[0]))
        return
    except (IndexError, OSError):
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")
    _declared.append(library)
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


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
