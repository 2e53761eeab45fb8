"""Bytes that autograd keeps for the backward pass, counted on a UNet without data.

Shapes: h w latent size, L tokens, D text width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

# Activations under 16-bit autocast, as a fraction of those in float32 (norms stay in float32), counted on SD 1.5 at
# 256 pixels with torch's autocast lists; by gradient checkpointing.
HALF = {False: 0.66, True: 0.59}


class Kept(NamedTuple):
    """Bytes kept until the backward pass: activations of each image, and 16-bit copies of weights."""

    image: int
    copies: int


class _Attention(torch.autograd.Function):
    """Saves what a fused kernel saves: inputs, output and one number per row, not the attention map."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]))
        return out


class _FusedAttention(TorchFunctionMode):
    """Fused attention on the meta device, where torch has none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def kept(unet: Any, side: int, tokens: int, width: int, half: bool = False, checkpointing: bool = False) -> Kept:
    """Count the forward pass of one image.

    Args:
        unet: a diffusers model on the meta device; becomes float32, with `checkpointing` switched on.
        side: h = w.
        tokens, width: L and D.
        half: under autocast to 16 bits; the copies of frozen weights are not kept with `checkpointing`.
        checkpointing: keep the inputs of each block, and the activations of the largest block while it is recomputed.
    """
    copied = [p for p in unet.parameters() if p.ndim > 1 and p.element_size() > 2]
    copies = sum(2 * p.numel() for p in copied if p.requires_grad or not checkpointing)
    own = {_storage(p) for p in unet.float().parameters()}
    held: dict[int, Tensor] = {}  # by storage; tensors, because the id of a freed storage is used again
    blocks = [0]  # bytes

    def checkpoint(block: nn.Module, *args: Any) -> Any:
        inside: dict[int, Tensor] = {}
        held.update({_storage(x): x for x in args if isinstance(x, Tensor)})
        with _saved_to(inside):
            out = block(*args)
        blocks.append(_bytes(inside, own))
        return out

    if checkpointing:
        unet.enable_gradient_checkpointing(checkpoint)
    with torch.device("meta"):
        sample, text = torch.empty(1, unet.config.in_channels, side, side), torch.empty(1, tokens, width)
        t = torch.empty(1)
    with _saved_to(held), _FusedAttention():
        unet.train()(sample, t, encoder_hidden_states=text, return_dict=False)
    image = _bytes(held, own) + max(blocks)
    return Kept(int(HALF[checkpointing] * image), copies) if half else Kept(image, 0)


def _saved_to(held: dict[int, Tensor]) -> Any:
    """Put tensors that autograd saves into `held`, by storage."""

    def save(x: Tensor) -> Tensor:
        held[_storage(x)] = x
        return x

    return saved_tensors_hooks(save, lambda x: x)


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _bytes(held: dict[int, Tensor], own: set[int]) -> int:
    """Of the tensors whose storages are not `own`, the weights'."""
    return sum(x.untyped_storage().nbytes() for storage, x in held.items() if storage not in own)
