"""Modules that are in place, and run when anybody asks them for a name: libraries import more than a run needs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any


class Deferred(types.ModuleType):
    """A module that has not run yet; its submodules import as ever."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system itself, and by those who look through all modules
            raise AttributeError(name)
        return complete(self, name)


def defer(name: str, kind: type[Deferred] = Deferred) -> types.ModuleType | None:
    """Put a module in place, its parents being imported; None where it is absent, or loaded already."""
    try:
        spec = None if name in sys.modules else importlib.util.find_spec(name)
    except ModuleNotFoundError:  # its parent
        spec = None
    if spec is None:
        return None
    module: Any = importlib.util.module_from_spec(spec)
    module.__class__ = kind
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


def complete(module: types.ModuleType, name: str) -> Any:
    """Run the module's own code in the object that everybody holds already; what it then calls `name`."""
    module.__class__ = types.ModuleType
    spec = module.__spec__
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module)
    return getattr(module, name)
