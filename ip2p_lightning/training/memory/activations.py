"""Bytes that autograd keeps for the backward pass, counted on a UNet without data, under a GPU's autocast.

Shapes: h w latent size, L tokens, D text width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

# torch's lists (ATen/autocast_mode.h), as far as a UNet uses them
_TO_16_BITS = {F.conv2d, F.linear, torch.matmul, torch.bmm, torch.baddbmm, F.scaled_dot_product_attention}
_TO_32_BITS = {F.group_norm, F.layer_norm, F.softmax}


class Kept(NamedTuple):
    """Bytes kept until the backward pass: activations of each image, and 16-bit copies of weights."""

    image: int
    copies: int


class _Attention(torch.autograd.Function):
    """Saves what a fused kernel saves: inputs, output and one number per row, not the attention map."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out


class Device(TorchFunctionMode):
    """Fused attention and 16-bit autocast for tensors on the meta device, where torch has neither.

    Like autocast it casts a trained weight once per forward pass, a frozen one at each use.
    """

    def __init__(self, half: bool) -> None:
        super().__init__()
        self.half = half
        self.trained: dict[int, Tensor] = {}
        self.copies: dict[int, Tensor] = {}  # by storage; held, because the id of a freed storage is used again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.half and func in _TO_16_BITS | _TO_32_BITS:
            dtype = torch.bfloat16 if func in _TO_16_BITS else torch.float32
            args = [self._cast(x, dtype) for x in args]
            kwargs = {name: self._cast(x, dtype) for name, x in kwargs.items()}
        return _Attention.apply(*args[:3]) if func is F.scaled_dot_product_attention else func(*args, **kwargs)

    def _cast(self, x: Any, dtype: torch.dtype) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == dtype:
            return x
        if id(x) in self.trained:
            return self.trained[id(x)]
        copy = x.to(dtype)
        if isinstance(x, nn.Parameter):
            self.copies[_storage(copy)] = copy
            if x.requires_grad:
                self.trained[id(x)] = copy
        return copy


def kept(unet: Any, side: int, tokens: int, width: int, half: bool = False, checkpointing: bool = False) -> Kept:
    """Count the forward pass of one image.

    Args:
        unet: a diffusers model on the meta device; `checkpointing` is switched on in it.
        side: h = w.
        tokens, width: L and D.
        half: under autocast to 16 bits.
        checkpointing: keep the inputs of each block, and the activations of the largest block while it is recomputed.
    """
    device, own = Device(half), {_storage(p) for p in unet.parameters()}
    held: dict[int, Tensor] = {}  # by storage; tensors, because the id of a freed storage is used again
    blocks = [0]  # bytes

    def checkpoint(block: nn.Module, *args: Any) -> Any:
        inside: dict[int, Tensor] = {}
        for x in args:
            if isinstance(x, Tensor) and _storage(x) not in own:
                held[_storage(x)] = x
        with _saved_to(inside, own):
            out = block(*args)
        blocks.append(_bytes({s: x for s, x in inside.items() if s not in device.copies}))
        return out

    if checkpointing:
        unet.enable_gradient_checkpointing(checkpoint)
    with torch.device("meta"):
        sample, text = torch.empty(1, unet.config.in_channels, side, side), torch.empty(1, tokens, width)
        t = torch.empty(1)
    with _saved_to(held, own), device:
        unet.train()(sample, t, encoder_hidden_states=text, return_dict=False)
    copies = {s: x for s, x in held.items() if s in device.copies}
    images = {s: x for s, x in held.items() if s not in copies}
    return Kept(_bytes(images) + max(blocks), _bytes(copies | {_storage(x): x for x in device.trained.values()}))


def _saved_to(held: dict[int, Tensor], own: set[int]) -> Any:
    """Put tensors that autograd saves into `held`, by storage, without the weights, whose storages are `own`."""

    def save(x: Tensor) -> Tensor:
        if _storage(x) not in own:
            held[_storage(x)] = x
        return x

    return saved_tensors_hooks(save, lambda x: x)


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _bytes(held: dict[int, Tensor]) -> int:
    return sum(x.untyped_storage().nbytes() for x in held.values())
