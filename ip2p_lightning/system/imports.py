"""Faster imports at start-up, and quiet libraries."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 100  # modules


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection while many modules are imported, and exempt their objects from later collections.

    Where few are imported, as by a second fit of one process, nothing is exempt: the first fit's objects may be freed.
    """
    if not gc.isenabled():  # paused already, or the caller's own choice
        yield
        return
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) >= before + MANY:
            gc.collect(0)  # what is garbage by now must not be kept
            gc.freeze()
        gc.enable()


def quiet_libraries() -> None:
    """Turn off the progress bars and advice of the libraries that load weights; call it before they do."""
    import diffusers
    import huggingface_hub
    import transformers

    huggingface_hub.logging.set_verbosity_error()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
