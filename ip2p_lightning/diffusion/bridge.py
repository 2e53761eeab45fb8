"""A bridge: from the original image straight to the edited one, without passing through noise.

Shapes: B batch, C latent channels, h w latent size. t in [0, 1]: 0 is the original, 1 the edit.

Relatives, and how this differs from each:
- Rectified flow (Liu et al. 2022, eq. 1) regresses z_1 - z_0 on the straight line between coupled ends. With sigma = 0
  and start_share = 0 this is that loss, for the coupling (original, edited); here the net also sees original and text.
- Latent Bridge Matching (Chadebec et al. 2025) has the same noisy path, but regresses its drift (z_1 - z_t) / (1 - t)
  = (z_1 - z_0) - sigma sqrt(t / (1 - t)) eps, unbounded as t -> 1; the target here is the noise-free z_1 - z_0.
- I2SB (Liu et al. 2023) has a time-dependent diffusion on the path and regresses the scaled distance to the clean end.
- `start_share` is ours: that share of the samples is trained exactly at t = 0, where one-step editing asks.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ip2p_lightning.diffusion.objective import ConditionLike, Net
from ip2p_lightning.errors import UserError

NET_TIME = 1000.0  # the UNet's time embedding was trained on 0 .. 1000
KINDS: dict[str, Any] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


class BridgeObjective:
    """Predict v = z_edited - z_original from a point of the (noisy) line between them.

    `sigma` is the bridge's noise, in units of scaled latents; 0 makes the path deterministic. `start_share` of the
    samples has t = 0 exactly, the others t uniform in [0, 1). `kind` is the distance; "huber" turns linear at 1.
    Raises UserError for values out of range.
    """

    name = "bridge"
    start: Literal["original"] = "original"

    def __init__(
        self, sigma: float = 0.1, start_share: float = 0.5, kind: Literal["mse", "l1", "huber"] = "mse"
    ) -> None:
        if not (math.isfinite(sigma) and sigma >= 0):
            raise UserError(f"objective.sigma must be finite and at least 0, got {sigma}")
        if not 0 <= start_share <= 1:
            raise UserError(f"objective.start_share must lie in [0, 1], got {start_share}")
        if kind not in KINDS:
            raise UserError(f"objective.kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.sigma, self.start_share, self.kind = sigma, start_share, kind

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:  # [B]
        """Times in [0, 1), float32, on the generator's device."""
        at_start, t = torch.rand(2, batch, generator=generator, device=generator.device)
        return torch.where(at_start < self.start_share, 0.0, t)

    def between(self, z_original: Tensor, z_edited: Tensor, t: Tensor, noise: Tensor | None) -> Tensor:  # -> [B C h w]
        """z_t = (1 - t) z_0 + t z_1 + sigma sqrt(t (1 - t)) eps: a Brownian bridge; `noise` None leaves eps out."""
        t = t.view(-1, 1, 1, 1)
        z_t = (1 - t) * z_original + t * z_edited
        return z_t if noise is None else z_t + self.sigma * (t * (1 - t)).sqrt() * noise

    def loss(
        self,
        net: Net,
        z_edited: Tensor,  # [B C h w], scaled
        condition: ConditionLike,
        t: Tensor,  # [B] in [0, 1)
        noise: Tensor,  # [B C h w]
        z_original: Tensor,  # [B C h w], scaled
    ) -> Tensor:  # [B]
        """|| v_theta(z_t, t, c_I, c_T) - (z_1 - z_0) ||  (Liu et al. 2022, eq. 1), per sample, float32."""
        z_t = self.between(z_original, z_edited, t, noise)
        v = net(z_t, self.net_time(t), condition)
        distance = KINDS[self.kind](v.float(), (z_edited - z_original).float(), reduction="none")
        return distance.mean((1, 2, 3))

    def net_time(self, t: Tensor) -> Tensor:  # [B] -> [B] in [0, 1000)
        """`t` on the scale of the UNet's time embedding."""
        return t * NET_TIME

    def quartile(self, t: Tensor) -> Tensor:  # [B] -> [B] int in 0..3
        """The quarter of the way that `t` lies in; 0 is nearest to the original, and holds all of `start_share`."""
        return (t * 4).long().clamp(max=3)
