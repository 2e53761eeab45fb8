"""The discrete noise schedule of latent diffusion.

Shapes: B batch, C latent channels, h w latent size, T training timesteps.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ip2p_lightning.errors import UserError

BetaSchedule = Literal["scaled_linear", "linear", "squaredcos_cap_v2"]


class Schedule:
    """alpha_bar_t for t = 0 .. timesteps-1, computed by diffusers' ``DDPMScheduler``.

    The defaults are Stable Diffusion's (Rombach et al. 2022): scaled-linear betas from 0.00085 to 0.012, 1000 steps.
    `zero_terminal_snr` rescales the betas so that the last step is pure noise (Lin et al. 2023, algorithm 1).
    Raises UserError for a range that is no schedule.
    """

    def __init__(
        self,
        timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: BetaSchedule = "scaled_linear",
        zero_terminal_snr: bool = False,
    ) -> None:
        if timesteps < 2:
            raise UserError(f"objective.timesteps must be at least 2, got {timesteps}")
        if not 0 < beta_start <= beta_end < 1:
            raise UserError(f"objective: need 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}")
        self.timesteps, self.zero_terminal_snr = timesteps, zero_terminal_snr
        self.beta_start, self.beta_end, self.beta_schedule = beta_start, beta_end, beta_schedule
        self._held: dict[torch.device, Tensor] = {}

    def config(self) -> dict[str, Any]:
        """The schedule in the words of a diffusers scheduler config."""
        return {
            "num_train_timesteps": self.timesteps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": self.beta_schedule,
            "trained_betas": None,
            "rescale_betas_zero_snr": self.zero_terminal_snr,
        }

    @cached_property
    def alphas_cumprod(self) -> Tensor:  # [T]
        """alpha_bar_t, float32 on the CPU, decreasing, in [0, 1)."""
        from diffusers import DDPMScheduler

        return DDPMScheduler(**self.config()).alphas_cumprod

    def alpha_bar(self, t: Tensor) -> Tensor:  # t [B] -> [B 1 1 1]
        """alpha_bar at the integer timesteps `t`, float32 on t's device."""
        if t.device not in self._held:
            self._held[t.device] = self.alphas_cumprod.to(t.device)
        return self._held[t.device][t].view(-1, 1, 1, 1)

    def add_noise(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # [B C h w], [B C h w], [B] -> [B C h w]
        """z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps  (Ho et al. 2020, eq. 4)."""
        a = self.alpha_bar(t)
        return a.sqrt() * z + (1 - a).sqrt() * noise

    def velocity(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # [B C h w], [B C h w], [B] -> [B C h w]
        """v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) z  (Salimans & Ho 2022, section 4)."""
        a = self.alpha_bar(t)
        return a.sqrt() * noise - (1 - a).sqrt() * z

    def snr(self, t: Tensor) -> Tensor:  # [B] -> [B]
        """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t), at least 0."""
        a = self.alpha_bar(t).flatten()
        return a / (1 - a)


def checkpoint_schedule(path: str, subfolder: str = "scheduler", revision: str | None = None) -> dict[str, Any]:
    """The JSON of a checkpoint's scheduler, without a class's defaults. Raises UserError where `path` has none."""
    from diffusers import DDPMScheduler

    try:
        return dict(DDPMScheduler.load_config(path, subfolder=subfolder, revision=revision))
    except OSError as error:
        raise UserError(f"no scheduler config in {path}/{subfolder}: {str(error).splitlines()[0]}") from error
