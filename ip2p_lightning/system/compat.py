"""Makes torchvision importable when its compiled extension does not match the installed torch.

A CUDA build of torchvision beside a CPU build of torch fails at import with "operator torchvision::nms does not exist",
and takes lightning, torchmetrics, timm and diffusers with it. Nothing here uses those operators: declaring their
schemas is enough. Where the extension loads, nothing changes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

_declared: list[Any] = []  # keeps the library alive: its operators vanish with it


class _ImportHook:
    """A module finder that finds nothing; it declares the operators when torchvision is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing()


def allow_torchvision_import() -> None:
    """Install the hook that makes a later import of torchvision succeed."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _ImportHook())


def _declare_missing() -> None:
    """Declare torchvision's two operator schemas if its extension cannot be loaded."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    import torch

    with contextlib.suppress(StopIteration, OSError):
        torch.ops.load_library(str(next(Path(spec.submodule_search_locations[0]).glob("_C*.so"))))
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    _declared.append(library)
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
