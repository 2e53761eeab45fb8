"""Samplers: from noise, or from the original, to an edit.

Shapes: B batch, C latent channels, h w latent size.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ip2p_lightning.diffusion.bridge import BridgeObjective
from ip2p_lightning.diffusion.guidance import GuidedNet
from ip2p_lightning.diffusion.objective import ConditionLike, DiffusionObjective, Net
from ip2p_lightning.errors import UserError

Progress = Callable[[int, int], None]  # (steps done, steps in all)
Generators = Sequence[torch.Generator]  # one for each image

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
}
# Schedulers that a checkpoint may come with; they go by their classes' names.
MORE_SCHEDULERS = tuple(
    f"{name}Scheduler"
    for name in """DDPM PNDM LMSDiscrete EulerDiscrete HeunDiscrete DPMSolverSinglestep KDPM2Discrete
    KDPM2AncestralDiscrete DEISMultistep LCM""".split()  # noqa: SIM905
)
# What the scheduler config of Stable Diffusion 1.5 says besides its betas; what it leaves out (timestep_spacing) is
# each class's default, exactly as in ``SomeScheduler.from_config(pipeline.scheduler.config)``.
STABLE_DIFFUSION = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


class DiffusionSampler:
    """From noise, with one of diffusers' solvers and guidance for text and image.

    `scheduler` and `steps` >= 1 of it (more kinds go by the name of their class: `MORE_SCHEDULERS`); `text_scale` s_T
    and `image_scale` s_I: 1 means no guidance, and they work independently. `spacing` "auto" is "trailing" under
    zero-terminal SNR (Lin et al. 2023, section 3.3), else the checkpoint's or the solver's own. `checkpoint`, a
    scheduler config (``checkpoint_schedule``), decides steps_offset, set_alpha_to_one and the spacing; the objective
    decides betas and prediction type. Raises UserError for values out of range.
    """

    start: Literal["noise"] = "noise"

    def __init__(
        self,
        scheduler: Literal["ddim", "dpm++", "unipc", "euler-a"] = "ddim",
        steps: int = 20,
        text_scale: float = 7.5,
        image_scale: float = 1.5,
        spacing: Literal["auto", "leading", "linspace", "trailing"] = "auto",
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        if scheduler not in (*SCHEDULERS, *MORE_SCHEDULERS):
            raise UserError(f"sampler.scheduler must be one of {', '.join(SCHEDULERS)}, got {scheduler!r}")
        if spacing not in ("auto", "leading", "linspace", "trailing"):
            raise UserError(f"sampler.spacing must be auto, leading, linspace or trailing, got {spacing!r}")
        _check(steps, text_scale=text_scale, image_scale=image_scale)
        self.scheduler, self.steps, self.spacing = scheduler, steps, spacing
        self.text_scale, self.image_scale, self.checkpoint = text_scale, image_scale, checkpoint

    def build(self, objective: DiffusionObjective) -> Any:
        """The diffusers scheduler that samples what `objective` trained."""
        import diffusers

        cls, theirs = getattr(diffusers, SCHEDULERS.get(self.scheduler, self.scheduler)), dict(self.checkpoint or {})
        usual = {} if theirs.get("_class_name") == cls.__name__ else STABLE_DIFFUSION
        config = usual | theirs | objective.scheduler_config()
        if self.spacing != "auto":
            config["timestep_spacing"] = self.spacing
        elif objective.schedule.zero_terminal_snr:
            config["timestep_spacing"] = "trailing"
        known = inspect.signature(cls.__init__).parameters
        return cls.from_config({key: value for key, value in config.items() if key in known})

    def started(self, objective: DiffusionObjective, device: torch.device | None = None) -> Any:
        """`build` with its timesteps set. Raises UserError for a number of steps that the scheduler does not take."""
        most, scheduler = objective.schedule.timesteps, self.build(objective)
        if self.steps > most:
            raise UserError(f"sampler.steps={self.steps}: the objective has {most} timesteps; give at most {most}")
        try:
            scheduler.set_timesteps(self.steps, device=device)
        except (ValueError, IndexError) as error:
            raise UserError(f"sampler.steps={self.steps}: {self.scheduler} says: {str(error)[:200]}") from None
        return scheduler

    def check(self, objective: DiffusionObjective) -> None:
        """Raise UserError where this sampler cannot sample what `objective` trains."""
        self.started(objective)

    @torch.no_grad()
    def sample(
        self,
        net: Net,
        objective: DiffusionObjective,
        condition: ConditionLike,
        null: ConditionLike,
        z_original: Tensor,  # [B C h w], scaled; gives shape, dtype and device
        generators: Generators,
        progress: Progress | None = None,
    ) -> Tensor:  # [B C h w], scaled
        """The edit. Image i depends on ``generators[i]`` alone: a batch gives what one by one gives."""
        _match(self.start, objective, z_original, generators)
        scheduler = self.started(objective, z_original.device)
        guided = GuidedNet(net, null, self.text_scale, self.image_scale)
        drawing = "generator" in inspect.signature(scheduler.step).parameters
        extra = {"generator": list(generators)} if drawing else {}
        z = noise_like(z_original, generators) * scheduler.init_noise_sigma
        for done, t in enumerate(scheduler.timesteps, start=1):
            scaled = scheduler.scale_model_input(z, t)  # the noisy half only; the image half is shown as it is
            out = guided(scaled, t.expand(len(z)), condition)
            z = scheduler.step(out, t, z, return_dict=False, **extra)[0]
            if progress is not None:
                progress(done, len(scheduler.timesteps))
        return z


class BridgeSampler:
    """From the original, along the bridge, in a few steps.

    Each step predicts the end and returns to the line at the next time; the last one returns the end itself. One step
    is a feed-forward edit. `stochastic` adds the bridge's noise between steps, as in training; without it more than one
    step walks the path's middle, which training with `sigma` > 0 shows with noise only. `text_scale` 1 means one call
    per step; another value costs a second one, shown no text. Raises UserError for values out of range.
    """

    start: Literal["original"] = "original"

    def __init__(self, steps: int = 4, text_scale: float = 1.0, stochastic: bool = False) -> None:
        _check(steps, text_scale=text_scale)
        self.steps, self.text_scale, self.stochastic = steps, text_scale, stochastic

    def check(self, objective: BridgeObjective) -> None:
        """Warn of steps between which the net sees latents unlike those it was trained on."""
        if self.steps > 1 and objective.sigma > 0 and not self.stochastic:
            warnings.warn(
                f"sampler.steps={self.steps}: the path has no noise between the steps, where training has "
                f"objective.sigma={objective.sigma:g}; sampler.stochastic=true adds it",
                stacklevel=2,
            )

    @torch.no_grad()
    def sample(
        self,
        net: Net,
        objective: BridgeObjective,
        condition: ConditionLike,
        null: ConditionLike,
        z_original: Tensor,  # [B C h w], scaled
        generators: Generators,
        progress: Progress | None = None,
    ) -> Tensor:  # [B C h w], scaled
        """The edit. Without `stochastic` the generators are not used."""
        _match(self.start, objective, z_original, generators)
        guided = GuidedNet(net, null, self.text_scale, image_scale=1.0)
        times = torch.linspace(0, 1, self.steps + 1, device=z_original.device)
        z = end = z_original
        for done in range(1, self.steps + 1):
            here, there = times[done - 1].expand(len(z)), times[done].expand(len(z))
            end = z_original + guided(z, objective.net_time(here), condition)  # z_1^ = z_0 + v
            if done < self.steps:
                noise = noise_like(z, generators) if self.stochastic else None
                z = objective.between(z_original, end, there, noise)
            if progress is not None:
                progress(done, self.steps)
        return end


def noise_like(z: Tensor, generators: Generators) -> Tensor:  # [B C h w]
    """Gaussian noise, image i from ``generators[i]``; drawn where the generators live, as diffusers' pipelines do."""
    draws = [torch.randn((1, *z.shape[1:]), generator=g, device=g.device, dtype=z.dtype) for g in generators]
    return torch.cat(draws).to(z.device)


def _check(steps: int, **scales: float) -> None:
    if steps < 1:
        raise UserError(f"sampler.steps must be at least 1, got {steps}")
    for name, scale in scales.items():
        if not math.isfinite(scale):
            raise UserError(f"sampler.{name} must be finite, got {scale}")


def _match(start: str, objective: Any, z: Tensor, generators: Generators) -> None:
    if objective.start != start:
        raise UserError(f"this sampler starts from {start}, the objective {objective.name} from {objective.start}")
    if len(generators) != len(z):
        raise UserError(f"need one generator for each image: {len(z)} images, {len(generators)} generators")
