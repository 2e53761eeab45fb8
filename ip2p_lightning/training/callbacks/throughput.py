"""FLOPs of a training step, counted on its first forward pass, and model FLOPs utilisation (MFU)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

# Dense bf16 peaks with fp32 accumulation, TFLOP/s, from the vendors' data sheets, by words of the
# device's name; the longest match counts.
PEAKS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
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
_OTHERS = {"Laptop", "Max", "Ti", "SUPER", "D", "MIG"}  # variants with other peaks


def peak_tflops(device: torch.device) -> float | None:
    """The device's bf16 peak; None on a CPU and for a device that is not in the table."""
    return named_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def named_peak(name: str) -> float | None:
    """The peak of the device of this name, matched by whole words (an RTX A4000 is not an A40)."""
    words = re.split(r"[\s-]+", name)  # NVIDIA A100-SXM4-80GB
    whole = f" {' '.join(words)} "
    known = [key for key in PEAKS if f" {key} " in whole and not _OTHERS & set(words)]
    return PEAKS[max(known, key=len)] if known else None


class WorkMeter:
    """A training module's FLOPs per image, counted on its UNet's first forward pass.

    A compiled UNet is counted on a copy on the meta device. Gradient checkpointing's recomputation does not count.
    """

    def __init__(self, module: Any) -> None:
        self.module, self.flops = module, 0.0  # per image, forward and backward
        if not any(part._compiled_call_impl is not None for part in module.unet.modules()):
            count_next_pass(module.unet, self._set_forward)

    def _set_forward(self, flops: float) -> None:
        self.flops = flops * passes(self.module.unet)

    def rates(self, images_per_s: float) -> dict[str, float]:
        """TFLOP/s on this device, and its share of the device's bf16 peak (MFU) if that is known."""
        if not self.flops and self.module.latent_side:
            text = self.module.text_encoder
            self._set_forward(flops_of_shape(self.module.unet, self.module.latent_side, text.length, text.width))
        rate, peak = self.flops * images_per_s / 1e12, peak_tflops(self.module.device)
        return {"train/tflops_per_s": rate} | ({"train/mfu": rate / peak} if peak else {})


def passes(unet: nn.Module) -> float:
    """Forward and backward pass in units of the forward pass; the weights' gradients by the share that is trained."""
    trained = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    return 2 + trained / max(1, sum(p.numel() for p in unet.parameters()))


class _Counting(TorchDispatchMode):
    """Adds up floating-point operations, as torch's FlopCounterMode does but not by module, which slows a step."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:  # not in torch's table
            self.flops += sdpa_flop_count(*(x.shape for x in args[:3]))
        elif func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def count_next_pass(unet: nn.Module, report: Callable[[float], None]) -> None:
    """Call `report` with the operations per example of the UNet's next forward pass, whose results stay the same."""
    counting = _Counting()

    def before(module: nn.Module, args: Any) -> None:
        counting.__enter__()

    def after(module: nn.Module, args: Any, out: Any) -> None:
        counting.__exit__(None, None, None)
        for hook in hooks:
            hook.remove()
        if out is not None:  # else it failed
            report(counting.flops / len(out[0]))

    hooks = [unet.register_forward_pre_hook(before), unet.register_forward_hook(after, always_call=True)]


def flops_of_shape(unet: nn.Module, side: int, tokens: int, width: int) -> int:
    """Operations of one example's forward pass (latent [C side side], text [tokens width]), counted on meta tensors."""
    with torch.device("meta"):
        copy = type(unet).from_config(unet.config)
        sample, text = torch.empty(1, unet.config.in_channels, side, side), torch.empty(1, tokens, width)
        t = torch.empty(1)
    with torch.no_grad(), _Counting() as counting:
        copy(sample, t, encoder_hidden_states=text, return_dict=False)
    return counting.flops
