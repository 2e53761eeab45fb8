"""diffusers' networks while they sample: the same outputs, up to float noise, for less arithmetic and less memory.

What each rewriting gains on a CPU is measured in benchmarks/results/edit_cpu_202611.md. On a GPU, where none of them
was measured, only the keys and values are kept.

Shapes: B batch, C channels, h w size, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ip2p_lightning.networks.fast_blocks import flat, is_plain, joined, once, padded

Forward = Callable[..., Tensor]
Rule = Callable[[Any], dict[nn.Module, Forward]]  # of a module: the layers that it changes, and how they compute then


@contextmanager
def leaner(*networks: nn.Module | None, rules: Sequence[Rule] | None = None) -> Iterator[None]:
    """Within, layers of `networks` compute by other `rules`, by default by all of `RULES`; without gradients.

    Compiled modules, and layers of another kind (LoRA's, say), are left alone; None is no network. Under a CPU's
    autocast nothing changes: sums in 16 bits depend on their order.
    """
    rules, changed = rules or RULES, list[nn.Module]()
    if torch.is_autocast_enabled("cpu"):
        rules = ()
    parts = [part for network in filter(None, networks) for part in _eager(network)]
    own = {part for part in parts if "forward" not in vars(part)}  # the forward that another gave to a layer stays
    try:
        for rule in rules:  # a later one finds what an earlier one made
            for layer, forward in [pair for part in parts for pair in rule(part).items() if pair[0] in own]:
                layer.forward = forward
                changed.append(layer)
        yield
    finally:
        for layer in changed:
            vars(layer).pop("forward", None)  # the class's own shows again


def _eager(part: nn.Module) -> Iterator[nn.Module]:
    """A module and those in it, but for what is compiled."""
    if getattr(part, "_compiled_call_impl", None) is None:
        yield part
        for child in part.children():
            yield from _eager(child)


def kept(part: Any) -> dict[nn.Module, Forward]:
    """Keys and values of a cross-attention, kept for as long as the same text tensor is given."""
    if getattr(part, "is_cross_attention", False) is not True:
        return {}

    def keeping(forward: Forward) -> Forward:
        last: list[Tensor] = []

        def remembered(text: Tensor) -> Tensor:
            if not last or last[0] is not text:
                last[:] = [text, forward(text)]
            return last[1]

        return remembered

    return {layer: keeping(layer.forward) for layer in (part.to_k, part.to_v)}


def halved(part: Any) -> dict[nn.Module, Forward]:
    """A GEGLU without a tensor of both its halves, nor one of their product."""
    if type(part).__name__ != "GEGLU" or not is_plain(part.proj, nn.Linear):
        return {}
    weight, bias, width = part.proj.weight, part.proj.bias, part.proj.out_features // 2

    def gated(x: Tensor) -> Tensor:  # [B L D] -> [B L width]
        """x W_1 * gelu(x W_2)  (Shazeer 2020, eq. 6)."""
        gate = torch.ops.aten.gelu_(F.linear(x, weight[width:], bias[width:]))
        return F.linear(x, weight[:width], bias[:width]).mul_(gate)

    return {part: gated}


def quartered(part: Any) -> dict[nn.Module, Forward]:
    """Nearest-neighbour doubling and a 3x3 convolution as four 2x2 convolutions of the small image: 4/9 of the work."""
    conv = getattr(part, "conv", None)
    if type(part).__name__ != "Upsample2D" or not is_plain(conv, nn.Conv2d):
        return {}
    if part.norm is not None or (conv.kernel_size, conv.stride, conv.padding) != ((3, 3), (1, 1), (1, 1)):
        return {}
    kernels: list[list[Tensor]] = []
    whole = part.forward

    def doubled(x: Tensor, output_size: Any = None) -> Tensor:  # [B C h w] -> [B C' 2h 2w]
        height, width = x.shape[-2:]
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            return whole(x, output_size)
        if not kernels:
            kernels.append(_phases(conv.weight))
        padded = F.pad(x, (1, 1, 1, 1))
        out = x.new_empty(len(x), 2 * height, 2 * width, conv.out_channels).permute(0, 3, 1, 2)
        for phase, kernel in enumerate(kernels[0]):
            top, left = divmod(phase, 2)
            seen = padded[:, :, top : top + height + 1, left : left + width + 1]
            out[:, :, top::2, left::2] = F.conv2d(seen, kernel, conv.bias)
        return out

    return {part: doubled}


def _phases(weight: Tensor) -> list[Tensor]:  # [C' C 3 3] -> four of [C' C 2 2]
    """Of each of the four pixels that a small one becomes, the taps that fall on the same small pixel, added."""

    def both(kernel: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        before, here, after = kernel.unbind(dim)
        return torch.stack([before, here + after], dim), torch.stack([before + here, after], dim)

    layout = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return [kernel.contiguous(memory_format=layout) for rows in both(weight, 2) for kernel in both(rows, 3)]


RULES: tuple[Rule, ...] = (kept, halved, quartered, joined, flat, padded, once)
