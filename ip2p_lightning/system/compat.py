"""Make a torchvision importable whose compiled part does not fit the installed torch.

A CUDA build of torchvision beside a CPU build of torch fails at import with "operator torchvision::nms does not exist",
and takes lightning, torchmetrics, timm and diffusers with it. Nothing here uses those operators: declaring their
schemas is enough. Where the compiled part loads, nothing is touched.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

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
