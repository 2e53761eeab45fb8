"""The averaged weights: diffusers' EMAModel, whose step is one interpolation in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ip2p_lightning.training.fsdp import local


class Average(EMAModel):
    """diffusers' ``EMAModel`` without its step's second copy of all weights (3.4 GB at Stable Diffusion 1.5's size).

    s <- s + (1 - d) (p - s), the same number up to rounding; `d` is diffusers' own ramp.
    """

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter] | Any, skipped: Tensor | None = None) -> None:
        """Move towards `parameters`, all of them trained; of sharded ones each rank moves its part.

        `skipped` is 1 on the device where the optimizer skipped this step, which the host does not know yet: then
        nothing moves, and the caller takes the step back from ``optimization_step`` when it knows.
        """
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        shadow, now = map(local, self.shadow_params), (local(p.detach()) for p in parameters)
        weight = 1 - self.cur_decay_value
        if skipped is None:
            torch._foreach_lerp_(list(shadow), list(now), weight)
        else:
            torch._foreach_lerp_(list(shadow), list(now), [weight * (1 - skipped)] * len(self.shadow_params))
