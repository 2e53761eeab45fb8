"""The memory format of weights."""

from __future__ import annotations

import torch
from torch import nn


def to_channels_last(network: nn.Module) -> None:
    """Copy all weights, those of convolutions into channels-last order.

    ``Module.to`` would leave the others as views of the memory-mapped file (2.3 GiB for Stable Diffusion 1.5).
    """
    for parameter in network.parameters():
        order = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        parameter.data = parameter.data.clone(memory_format=order)
