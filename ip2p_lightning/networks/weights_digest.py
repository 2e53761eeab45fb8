"""What weights are, as a digest: equal names, shapes, types and bytes have equal ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any


def weight_digest(weights: Mapping[str, Any]) -> dict[str, Any]:
    """sha256 over names, shapes, dtypes and bytes of tensors, in the order of their names."""
    import torch

    found = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        found.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    count = sum(weight.numel() for weight in weights.values())
    return {"sha256": found.hexdigest(), "over": "name, shape, dtype, bytes", "tensors": len(weights), "numbers": count}
