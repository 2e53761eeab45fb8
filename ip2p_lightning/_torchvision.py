"""Make a torchvision importable whose compiled part does not fit the installed torch.

A CUDA build of torchvision beside a CPU build of torch fails at import with "operator torchvision::nms does not exist",
and takes lightning, torchmetrics, timm and diffusers with it. Nothing here uses those operators: declaring their
schemas is enough. Where the compiled part loads, nothing is touched.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

_declared = []  # keeps the library alive: its operators vanish with it


def ensure_torchvision_importable() -> Literal["absent", "native", "declared"]:
    """Declare torchvision's two missing operator schemas if its extension cannot be loaded; say what was found."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return "absent"
    import torch

    extensions = sorted(Path(spec.submodule_search_locations[0]).glob("_C*.so"))
    try:
        torch.ops.load_library(str(extensions[0]))
        return "native"
    except (IndexError, OSError):
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")
    _declared.append(library)
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return "declared"
