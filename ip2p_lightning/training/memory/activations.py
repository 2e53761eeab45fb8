"""What autograd keeps for the backward pass, counted on a UNet without data, typed as a GPU's autocast types it.

Shapes: h w latent size, L tokens, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# torch's lists (ATen/autocast_mode.h) as far as a UNet meets them.
_LOWERED = {F.conv2d, F.linear, torch.matmul, torch.bmm, torch.baddbmm, F.scaled_dot_product_attention}
_RAISED = {F.group_norm, F.layer_norm, F.softmax}


@dataclass(frozen=True)
class Kept:
    """Bytes that live until the backward pass: of each image, and 16-bit copies of weights."""

    image: int
    copies: int


class _Attention(torch.autograd.Function):
    """What a fused kernel keeps: its inputs, its output and a number per row, but not the attention map."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out


class Device(TorchFunctionMode):
    """What a device does with tensors that have no data and are on none: fused attention and, to 16 bits, autocast.

    Autocast lowers matrix products and raises norms. The copy of a trained weight is made once and lives as long as the
    forward pass; that of a frozen one is made anew.
    """

    def __init__(self, half: bool) -> None:
        super().__init__()
        self.half = half
        self.trained: dict[int, Tensor] = {}
        self.copies: dict[int, Tensor] = {}  # by storage, held: the number of one that is let go is given to another

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.half and (func in _LOWERED or func in _RAISED):
            wanted = torch.bfloat16 if func in _LOWERED else torch.float32
            args = [self._cast(x, wanted) for x in args]
            kwargs = {name: self._cast(x, wanted) for name, x in kwargs.items()}
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **kwargs)

    def _cast(self, x: Any, wanted: torch.dtype) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == wanted:
            return x
        if id(x) in self.trained:
            return self.trained[id(x)]
        copy = x.to(wanted)
        if isinstance(x, nn.Parameter):
            self.copies[_storage(copy)] = copy
            if x.requires_grad:
                self.trained[id(x)] = copy
        return copy


class _Keeper:
    """Takes what autograd saves, but for the weights themselves."""

    def __init__(self, own: set[int]) -> None:
        self.own = own
        self.held: dict[int, Tensor] = {}  # by storage: a freed storage's number may be used again

    def __call__(self, x: Tensor) -> Tensor:
        if _storage(x) not in self.own:
            self.held[_storage(x)] = x
        return x


def kept(unet: Any, side: int, tokens: int, width: int, half: bool = False, checkpointing: bool = False) -> Kept:
    """Count one image's forward pass.

    Args:
        unet: a diffusers model on the meta device; its blocks' checkpointing is switched on if asked.
        side: h = w.
        tokens, width: L and D.
        half: under autocast to 16 bits.
        checkpointing: keep the inputs of each block, and what the largest block keeps while it is computed again.
    """
    device, own = Device(half), {_storage(p) for p in unet.parameters()}
    keeper, blocks = _Keeper(own), [0]

    def again(block: nn.Module, *args: Any) -> Any:
        inside = _Keeper(own)
        for x in args:
            if isinstance(x, Tensor):
                keeper(x)
        with torch.autograd.graph.saved_tensors_hooks(inside, _same):
            out = block(*args)
        blocks.append(_bytes({s: x for s, x in inside.held.items() if s not in device.copies}))
        return out

    if checkpointing:
        unet.enable_gradient_checkpointing(again)
    with torch.device("meta"):
        sample, text = torch.empty(1, unet.config.in_channels, side, side), torch.empty(1, tokens, width)
        t = torch.empty(1)
    with torch.autograd.graph.saved_tensors_hooks(keeper, _same), device:
        unet.train()(sample, t, encoder_hidden_states=text, return_dict=False)
    copies = {s: x for s, x in keeper.held.items() if s in device.copies}
    images = {s: x for s, x in keeper.held.items() if s not in copies}
    return Kept(_bytes(images) + max(blocks), _bytes(copies | {_storage(x): x for x in device.trained.values()}))


def _same(x: Tensor) -> Tensor:
    return x


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _bytes(held: dict[int, Tensor]) -> int:
    return sum(x.untyped_storage().nbytes() for x in held.values())
