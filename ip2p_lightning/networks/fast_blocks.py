"""diffusers' blocks while they sample: what they add, divide and lay out anew without need is left out.

Rules for `leaner`, on a CPU. Each gives a block's own output up to float noise, and leaves alone a block that is set up
in another way than Stable Diffusion's are.

Shapes: B batch, C channels, h w size, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Forward = Callable[..., Any]
EVEN = 16  # keys: torch's attention on a CPU computes what is left over beyond a multiple of it one by one


def is_plain(layer: Any, kind: type[nn.Module]) -> bool:
    """Whether this is torch's own layer, with a bias, on a CPU."""
    return type(layer) is kind and layer.bias is not None and layer.weight.device.type == "cpu"


def joined(part: Any) -> dict[nn.Module, Forward]:
    """A residual block that adds in place, and does not divide by 1."""
    if type(part).__name__ != "ResnetBlock2D" or not is_plain(part.conv1, nn.Conv2d):
        return {}
    if part.upsample or part.downsample or part.skip_time_act or not isinstance(part.nonlinearity, nn.SiLU):
        return {}
    if (part.time_embedding_norm, part.output_scale_factor) != ("default", 1.0):
        return {}

    def added(x: Tensor, temb: Tensor | None = None, *args: Any, **words: Any) -> Tensor:  # [B C h w], [B D]
        h = part.conv1(F.silu(part.norm1(x), inplace=True))
        if temb is not None and part.time_emb_proj is not None:
            h = h.add_(part.time_emb_proj(F.silu(temb))[:, :, None, None])
        h = part.conv2(part.dropout(F.silu(part.norm2(h), inplace=True)))
        return h.add_(x if part.conv_shortcut is None else _pointwise(part.conv_shortcut, x))

    return {part: added}


def flat(part: Any) -> dict[nn.Module, Forward]:
    """A transformer between 1x1 convolutions that goes from pixels to tokens and back without a copy."""
    if type(part).__name__ != "Transformer2DModel" or not getattr(part, "is_input_continuous", False):
        return {}
    if part.use_linear_projection or not is_plain(part.proj_in, nn.Conv2d):
        return {}
    whole = part.forward

    def straight(x: Tensor, encoder_hidden_states: Tensor | None = None, **words: Any) -> Any:  # [B C h w], [B L D]
        others = [value for name, value in words.items() if name != "return_dict" and value is not None]
        if others or words.get("return_dict") is not False:
            return whole(x, encoder_hidden_states, **words)
        tokens = _pointwise(part.proj_in, part.norm(x)).permute(0, 2, 3, 1)
        rows = tokens.flatten(1, 2)
        for block in part.transformer_blocks:
            rows = block(rows, encoder_hidden_states=encoder_hidden_states)
        return (_pointwise(part.proj_out, rows.view(tokens.shape).permute(0, 3, 1, 2)).add_(x),)

    return {part: straight}


def padded(part: Any) -> dict[nn.Module, Forward]:
    """Attention without a division by 1, whose text is padded with keys that are masked."""
    plain = type(part).__name__ == "Attention" and type(part.processor).__name__ == "AttnProcessor2_0"
    if not plain or part.to_q.weight.device.type != "cpu":
        return {}
    if part.residual_connection or part.rescale_output_factor != 1:
        return {}
    norms = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross")
    if any(getattr(part, name, None) for name in norms):
        return {}
    whole = part.forward

    def seen(x: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: Any = None, **words: Any) -> Any:
        if attention_mask is not None or x.ndim != 3:  # [B L D]
            return whole(x, encoder_hidden_states, attention_mask, **words)
        shown = x if encoder_hidden_states is None else encoder_hidden_states
        more = 0 if shown is x else -shown.shape[1] % EVEN
        key, value = (F.pad(y, (0, 0, 0, more)) if more else y for y in (part.to_k(shown), part.to_v(shown)))
        q, k, v = (y.unflatten(-1, (part.heads, -1)).transpose(1, 2) for y in (part.to_q(x), key, value))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=_hidden(k, more)).transpose(1, 2).flatten(2)
        return part.to_out[1](part.to_out[0](out))

    return {part: seen}


def _hidden(key: Tensor, count: int) -> Tensor | None:
    """A mask of the last `count` keys, if any."""
    if not count:
        return None
    mask = key.new_zeros(1, key.shape[-2])
    mask[:, -count:] = -torch.inf
    return mask


def once(part: Any) -> dict[nn.Module, Forward]:
    """The layers of a UNet that come before it reads the text, once for branches that differ in their text alone."""
    first = next(iter(getattr(part, "down_blocks", ())), None)
    if type(part).__name__ != "UNet2DConditionModel" or type(first).__name__ != "CrossAttnDownBlock2D":
        return {}
    layers = [part.conv_in, first.resnets[0], first.attentions[0].transformer_blocks[0].attn1]
    return {layer: _once(layer.forward) for layer in layers if next(layer.parameters()).device.type == "cpu"}


def _once(forward: Forward) -> Forward:
    def fewer(x: Tensor, *args: Any, **words: Any) -> Any:  # [B ...]
        given = [x, *(value for value in args if value is not None)]
        if any(value is not None for value in words.values()) or not (count := _repeated(given)):
            return forward(x, *args, **words)
        out = forward(x[count:], *(value if value is None else value[count:] for value in args), **words)
        return torch.cat([out[:count], out])

    return fewer


def _repeated(given: list[Tensor]) -> int:
    """How many rows are there again right behind: a half or a third of all, as guidance stacks its branches."""
    for parts in (2, 3):
        count, left = divmod(len(given[0]), parts)
        if count and not left and all(torch.equal(x[:count], x[count : 2 * count]) for x in given):
            return count
    return 0


def _pointwise(conv: Any, x: Tensor) -> Tensor:  # [B C h w] -> [B C' h w]
    """A 1x1 convolution; as a product of matrices where pixels lie channels last."""
    plain = type(conv) is nn.Conv2d and conv.kernel_size == (1, 1)
    if not plain or not x.is_contiguous(memory_format=torch.channels_last):
        return conv(x)
    return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)
