"""While one instruction is sampled, its text does not change: what the UNet makes of the text alone is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def constant_text(unet: nn.Module) -> Iterator[None]:
    """Compute keys and values of cross-attention once for as long as the UNet is given the same text tensor.

    Exact: the very tensors of the first step are used again. Compiled networks, and those without, are left alone.
    """
    attentions = [m for m in unet.modules() if getattr(m, "is_cross_attention", False)]
    if any(m._compiled_call_impl is not None for m in unet.modules()):
        attentions = []
    layers = [layer for m in attentions for layer in (m.to_k, m.to_v) if "forward" not in vars(layer)]
    for layer in layers:
        layer.forward = _kept(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again


def _kept(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`forward`, answering the same tensor from memory."""
    last: list[Tensor] = []

    def once(text: Tensor) -> Tensor:
        if not last or last[0] is not text:
            last[:] = [text, forward(text)]
        return last[1]

    return once
