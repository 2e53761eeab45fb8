"""Denoising: from noise to the edited image, as Stable Diffusion and InstructPix2Pix are trained.

Shapes: B batch, C latent channels, h w latent size, L tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ip2p_lightning.diffusion.noise_schedule import BetaSchedule, Schedule
from ip2p_lightning.errors import UserError


class ConditionLike(Protocol):
    """A NamedTuple of what the net is shown (``networks.conditioner.Condition``)."""

    image: Tensor  # [B C h w]
    text: Tensor  # [B L D]

    def _replace(self, **parts: Tensor) -> ConditionLike: ...


Net = Callable[[Tensor, Tensor, Any], Tensor]  # (z_t [B C h w], t [B], ConditionLike) -> [B C h w]


class DiffusionObjective:
    """Predict the noise, or the velocity, that was mixed into the edited image's latents.

    `prediction` is what the net puts out: "epsilon" for Stable Diffusion 1.x and InstructPix2Pix, "v_prediction" for
    the 768-px models of Stable Diffusion 2. `snr_gamma` (off by default, as in every InstructPix2Pix) clips the weight
    of easy steps (Hang et al. 2023; they use 5). Raises UserError for `zero_terminal_snr` with "epsilon": at SNR 0 the
    input is the noise, so predicting it teaches nothing. `timesteps`, `beta_start`, `beta_end` and `beta_schedule` are
    the noise schedule, Stable Diffusion 1.x's by default. In a config null means the checkpoint's own
    (`config.checkpoint_scheduler`), or else "epsilon" and false.
    """

    start: Literal["noise"] = "noise"

    def __init__(
        self,
        prediction: Literal["epsilon", "v_prediction"] | None = None,
        timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: BetaSchedule = "scaled_linear",
        zero_terminal_snr: bool | None = None,
        snr_gamma: float | None = None,
    ) -> None:
        prediction = prediction or "epsilon"
        if prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"objective.prediction must be epsilon or v_prediction, got {prediction!r}")
        if zero_terminal_snr and prediction == "epsilon":
            raise UserError("objective.zero_terminal_snr=true needs objective.prediction=v_prediction, not epsilon")
        if snr_gamma is not None and not 0 < snr_gamma < float("inf"):
            raise UserError(f"objective.snr_gamma must be positive or null, got {snr_gamma}")
        self.name = self.prediction = prediction
        self.snr_gamma = snr_gamma
        self.schedule = Schedule(timesteps, beta_start, beta_end, beta_schedule, bool(zero_terminal_snr))

    def scheduler_config(self) -> dict[str, Any]:
        """What a diffusers scheduler must know to sample from a net trained under this objective."""
        return self.schedule.config() | {"prediction_type": self.prediction}

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:  # [B]
        """Integer timesteps, uniform over 0 .. timesteps-1, on the generator's device."""
        return torch.randint(0, self.schedule.timesteps, (batch,), generator=generator, device=generator.device)

    def target(self, z_edited: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # -> [B C h w]
        """The regression target: eps, or v of the clean scaled latents."""
        return noise if self.prediction == "epsilon" else self.schedule.velocity(z_edited, noise, t)

    def weight(self, t: Tensor) -> Tensor:  # [B] -> [B]
        """Min-SNR: min(SNR, gamma)/SNR for eps, min(SNR, gamma)/(SNR + 1) for v  (Hang et al. 2023, section 3.4)."""
        snr = self.schedule.snr(t)
        if self.snr_gamma is None:
            return torch.ones_like(snr)
        return snr.clamp(max=self.snr_gamma) / (snr if self.prediction == "epsilon" else snr + 1)

    def loss(
        self,
        net: Net,
        z_edited: Tensor,  # [B C h w], scaled
        condition: ConditionLike,
        t: Tensor,  # [B]
        noise: Tensor,  # [B C h w]
        z_original: Tensor | None = None,  # [B C h w]; not on this path: the net sees the original as a condition
    ) -> Tensor:  # [B]
        """E || eps - eps_theta(z_t, t, c_I, c_T) ||^2  (Brooks et al. 2023, eq. 1), per sample, float32."""
        z_t = self.schedule.add_noise(z_edited, noise, t)
        error = net(z_t, t, condition).float() - self.target(z_edited, noise, t).float()
        return error.square().mean((1, 2, 3)) * self.weight(t)

    def quartile(self, t: Tensor) -> Tensor:  # [B] -> [B] int in 0..3
        """The quarter of the schedule that `t` lies in; 0 is the least noisy."""
        return t * 4 // self.schedule.timesteps
