"""Modules that are in place, and run when anybody asks them for a name: libraries import more than a run needs."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
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


MANY = 100  # modules


@contextmanager
def uncollected() -> Iterator[None]:
    """Import many modules; what they made is walked over once, and by no later collection.

    Where few are imported, as by a second fit of one process, nothing is exempt from later collections: the objects of
    the first fit may have to be found by one.
    """
    if not gc.isenabled():  # held already, or the caller's own choice
        yield
        return
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) >= before + MANY:
            gc.collect(0)  # garbage among what was made here must not stay, too
            gc.freeze()
        gc.enable()


def quiet_libraries() -> None:
    """No progress bars or advice from the libraries that load weights; to be called before they do."""
    defer("scipy.stats")  # 0.3 s, for schedules of noise that nobody here uses; diffusers imports it early
    import diffusers
    import huggingface_hub
    import transformers

    huggingface_hub.logging.set_verbosity_error()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
