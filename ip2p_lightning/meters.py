"""How much work a training step is, counted once on tensors without data, and how fast devices can be.

Shapes: B batch, C latent channels, h w latent size, L tokens, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Dense bf16 peaks with fp32 accumulation, TFLOP/s, from the vendors' data sheets; the longest name that fits counts.
PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A30": 165.0,
    "A40": 150.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.0,
    "RTX A6000": 155.0,
    "RTX 5090": 210.0,
    "RTX 4090": 165.0,
    "RTX 4080": 97.0,
    "RTX 3090": 71.0,
    "RTX 3080": 60.0,
}


def peak_tflops(device: torch.device) -> float | None:
    """The device's bf16 peak; None where it is not in the table, and on a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = sorted((key for key in PEAKS if key in name), key=len)
    return PEAKS[known[-1]] if known else None


@dataclass(frozen=True)
class StepCost:
    """Of one image: floating-point operations of the UNet forward and backward, bytes kept for the backward pass."""

    flops: int
    saved_bytes: int


def step_cost(unet: nn.Module, side: int, tokens: int, width: int, checkpointing: bool = False) -> StepCost:
    """Count one image's forward and backward pass through a UNet of this shape; nothing is computed.

    Args:
        unet: a diffusers model; its weights are not touched.
        side: h = w.
        tokens, width: L and D.
        checkpointing: count what is kept with gradient checkpointing.
    """
    with torch.device("meta"):
        twin = type(unet).from_config(unet.config).train()
        sample = torch.empty(1, unet.config.in_channels, side, side, requires_grad=True)
        text, t = torch.empty(1, tokens, width), torch.empty(1)
    if checkpointing:
        twin.enable_gradient_checkpointing()
    own, saved = {p.untyped_storage()._cdata for p in twin.parameters()}, dict[int, int]()
    kept: list[Any] = []
    grids = {max(1, side >> k) ** 2 for k in range(4)}  # positions per level: on a device, attention maps are not kept

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        is_map = x.ndim > 2 and x.shape[-2] in grids and x.shape[-1] in grids | {tokens}
        if not is_map and storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
            kept.append(x)  # a freed storage's number may be used again
        return x

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            out = twin(sample, t, encoder_hidden_states=text, return_dict=False)[0]
        out.sum().backward()
    return StepCost(counter.get_total_flops(), sum(saved.values()))


def cost_of(module: Any, side: int) -> StepCost | None:
    """The cost of a training module's UNet at `side` latents; None for a UNet that is not made from a config."""
    text = module.text_encoder
    try:
        return step_cost(module.unet, side, text.length, text.width)
    except (AttributeError, NotImplementedError, RuntimeError):  # a meter must never end a run
        return None
