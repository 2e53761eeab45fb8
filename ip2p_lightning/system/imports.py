"""Importing many modules at a start, and keeping the libraries that are imported quiet."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
    import diffusers
    import huggingface_hub
    import transformers

    huggingface_hub.logging.set_verbosity_error()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
