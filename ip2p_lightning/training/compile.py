"""torch.compile of a UNet in training. Edits stay eager: their sizes and batches vary, each would be compiled anew."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from ip2p_lightning.errors import UserError

How = Literal["off", "regional", "full", "graphs"]


def compile_unet(unet: Any, how: How) -> None:
    """Compile a unet in place, at its first pass. Raises UserError without a compiler or repeated blocks."""
    if how == "off":
        return
    compiler = shlex.split(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))[0]
    if shutil.which(compiler) is None:
        raise UserError(
            f"model.compile={how} needs a C++ compiler, there is no {compiler}; install it or use model.compile=off"
        )
    if how == "regional":
        if not getattr(unet, "_repeated_blocks", None):
            raise UserError(
                "model.compile=regional needs repeated blocks, which this unet has not; use model.compile=full"
            )
        unet.compile_repeated_blocks()
    else:
        unet.compile(mode="reduce-overhead" if how == "graphs" else None)


def eager(how: How) -> AbstractContextManager[Any]:
    """A context in which nothing is compiled."""
    return nullcontext() if how == "off" else torch.compiler.set_stance("force_eager")
