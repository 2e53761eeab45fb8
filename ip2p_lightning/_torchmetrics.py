"""Let lightning import torchmetrics' two base classes without its hundred metrics: 2.5 of 11 CPU seconds of a start.

Lightning asks torchmetrics for ``Metric`` and ``MetricCollection`` only, but its own ``__init__`` imports every
metric, and with them scipy.signal, all of torchvision and transformers' BERT. Here the package is put in place without
running its ``__init__``, which runs as soon as anybody asks it for any other name: nothing is missing, and nothing is
another class than it would be. Submodules import as ever.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import types
from typing import Any

_HOMES = {
    "Metric": "torchmetrics.metric",
    "MetricCollection": "torchmetrics.collections",
    "__version__": "torchmetrics.__about__",
}


class _Deferred(types.ModuleType):
    """A package whose ``__init__`` has not run yet."""

    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            try:
                importlib.import_module("torchmetrics.utilities")  # first: metric and utilities import one another
                return getattr(importlib.import_module(_HOMES[name]), name)
            except ImportError:  # a version that is laid out otherwise: the ordinary, slower way
                for loaded in [n for n in sys.modules if n.startswith("torchmetrics.")]:
                    del sys.modules[loaded]
        elif name.startswith("__"):  # asked by the import system itself
            raise AttributeError(name)
        _complete(self)
        return getattr(self, name)


def defer_metrics() -> bool:
    """Put torchmetrics in place as described above; False where it is absent, or loaded already."""
    spec = importlib.util.find_spec("torchmetrics")
    if spec is None or "torchmetrics" in sys.modules:
        return False
    package: Any = importlib.util.module_from_spec(spec)
    package.__class__ = _Deferred
    package._logger = logging.getLogger("torchmetrics")  # its submodules ask for it
    sys.modules["torchmetrics"] = package
    return True


def _complete(package: types.ModuleType) -> None:
    """Run the package's own ``__init__`` in the module that everybody holds already."""
    package.__class__ = types.ModuleType
    spec = package.__spec__
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(package)
