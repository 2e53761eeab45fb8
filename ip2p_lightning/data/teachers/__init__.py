"""Neural teachers: what makes the edited side of a pair from a photo, with weights that the user supplies.

Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {"ARCHITECTURES": "generator", "Architecture": "generator", "GeneratorTeacher": "generator"}
_HOMES |= {"WhiteboxGenerator": "whitebox"}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
