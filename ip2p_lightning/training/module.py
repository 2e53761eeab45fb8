"""The LightningModule: autoencoder, text encoder and UNet under one objective.

Legend: B batch, C latent channels, H W pixels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ip2p_lightning.data.example import EditExample
from ip2p_lightning.errors import UserError
from ip2p_lightning.evaluation.metrics import psnr, ssim
from ip2p_lightning.networks.conditioning import Conditioner
from ip2p_lightning.networks.fast_sampling import leaner
from ip2p_lightning.networks.memory_format import to_channels_last
from ip2p_lightning.networks.unet import apply_unet
from ip2p_lightning.rng import place, seed_of, torch_rng
from ip2p_lightning.training.base_module import TrainedModule
from ip2p_lightning.training.compile import How, compile_unet, eager
from ip2p_lightning.training.lr_schedule import LearningRate

BLOCK = 8  # examples of a run that share a generator


class Draws(NamedTuple):
    """The random numbers of one batch: everything else in the loss is arithmetic."""

    t: Tensor  # [B]: integer steps, or times in [0, 1)
    noise: Tensor  # [B C h w] standard normal
    posterior: Tensor  # [B C h w] standard normal: the autoencoder's sample
    u: Tensor  # [B] uniform in [0, 1): the conditioning dropout


class EditDiffusion(TrainedModule):
    """Learns p(edited | original, instruction).

    Args:
        unet: the trained network, called like diffusers' ``UNet2DConditionModel``.
        autoencoder, text_encoder: see ``networks``; frozen unless ``text_encoder.trainable``.
        objective, sampler: see ``diffusion``.
        optimizer, schedule, max_skips: see `TrainedModule`.
        tasks: names, for the losses per task and their normalisation.
        seed: key of all random numbers drawn here.
        path: where the weights came from, for the record.
        drop: p of the three-way conditioning dropout (InstructPix2Pix, section 3.2.1); 0 = off.
        ema: decay of the averaged weights, ramped as min(decay, (1 + n) / (10 + n)); None = no average.
        balance_tasks: divide each task's loss by its running identity error before this optimizer step (by 1 where the
            task was not seen yet), so that a task whose pairs lie far apart does not drown the others.
        gradient_checkpointing: recompute activations in the backward pass; ``auto`` is decided before (`estimate`).
        channels_last: keep the unet's weights in that memory format; the same numbers, often faster.
        compile: torch.compile of the unet in training: regional (each kind of block once), full, or graphs (full, as
            CUDA graphs); takes minutes at the first step.

    Raises UserError: parts that do not fit together.
    """

    def __init__(
        self,
        unet: nn.Module,
        autoencoder: Any,
        text_encoder: Any,
        objective: Any,
        sampler: Any,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: LearningRate | None = None,
        tasks: Sequence[str] = (),
        seed: int = 0,
        path: str | None = None,
        drop: float = 0.05,
        ema: float | None = 0.9999,
        balance_tasks: bool = False,
        gradient_checkpointing: bool | Literal["auto"] = False,
        channels_last: bool = False,
        compile: How = "off",
        max_skips: int = 3,
    ) -> None:
        super().__init__(optimizer, schedule, max_skips)
        _check_fit(unet, autoencoder, text_encoder)
        self.unet = unet
        self.autoencoder, self.text_encoder = autoencoder, text_encoder
        if text_encoder.trainable:
            self.text = text_encoder.model
        self.objective, self.sampler = objective, sampler
        self.conditioner = Conditioner(text_encoder, p=drop, drop_image=objective.start == "noise")
        self.tasks, self.seed, self.path = list(tasks), seed, path
        self.balance_tasks, self.compiled = balance_tasks, compile
        if gradient_checkpointing is True:
            unet.enable_gradient_checkpointing()
        if channels_last:
            to_channels_last(unet)
        self.register_buffer("identity_error", torch.zeros(max(1, len(self.tasks))))
        self.register_buffer("identity_count", torch.zeros(max(1, len(self.tasks))))
        self.register_buffer("identity_window", torch.zeros(2, max(1, len(self.tasks))), persistent=False)
        self.ema = self._average(ema)
        self.last_losses: dict[str, Any] = {}
        self.latent_side = 0  # of the last training batch

    def draws(self, batch: EditExample, generator: torch.Generator, count: int | None = None) -> Draws:
        """The random numbers of a batch, or of `count` examples like its own, from `generator` and on its device."""
        count, (height, width) = count or len(batch.edited), batch.edited.shape[-2:]
        factor = 1 if self._is_encoded(batch.edited) else self.autoencoder.factor
        shape = (count, self.autoencoder.channels, height // factor, width // factor)
        return Draws(
            t=self.objective.draw(count, generator),
            noise=torch.randn(shape, generator=generator, device=generator.device),
            posterior=torch.randn(shape, generator=generator, device=generator.device),
            u=torch.rand(count, generator=generator, device=generator.device),
        )

    def loss(self, batch: EditExample, draws: Draws) -> Tensor:  # -> [B]
        """The objective's loss of each example; nothing here is random."""
        z_edited = self.autoencoder.sample(self._moments(batch.edited), draws.posterior)
        image = self.autoencoder.mode(self._moments(batch.original))
        condition = self.conditioner.drop(self.conditioner.encode(image, list(batch.prompt)), draws.u)
        z_original = image * self.autoencoder.scaling_factor
        net = partial(apply_unet, self.unet)
        loss = self.objective.loss(net, z_edited, condition, draws.t, draws.noise, z_original)
        return loss / self._identity_error(batch, z_edited, z_original) if self.balance_tasks else loss

    def _is_encoded(self, x: Tensor) -> bool:
        """Whether a cache has encoded a batch's images: [B 2C h w] in place of [B 3 H W]."""
        return x.shape[1] == 2 * self.autoencoder.channels

    def _moments(self, x: Tensor) -> Tensor:  # -> [B 2C h w]
        return x if self._is_encoded(x) else self.autoencoder.moments(x)

    def _identity_error(self, batch: EditExample, z_edited: Tensor, z_original: Tensor) -> Tensor:  # -> [B]
        """Running mean of |edited - original|^2 over each example's task, up to the optimizer step before this one."""
        index = self.task_index(batch)
        if self.training:
            with torch.no_grad():
                error = (z_edited - z_original).float().square().flatten(1).mean(1)
                finite = torch.isfinite(error)  # a poisoned example must not stay in the mean
                self.identity_window[0].index_add_(0, index, error.where(finite, 0))
                self.identity_window[1].index_add_(0, index, finite.to(error.dtype))
        return self.identity_error.where(self.identity_count > 0, 1)[index].clamp(min=1e-6)

    def _update_identity_error(self) -> None:
        """Once per optimizer step, with the global batch: a mean over roughly the last 100 examples of each task."""
        sums, counts = self._sum_over_ranks(self.identity_window)
        self.identity_count.copy_((self.identity_count + counts).clamp(max=100))
        step = counts / self.identity_count.clamp(min=1)
        self.identity_error.add_(step.clamp(max=1) * (sums / counts.clamp(min=1) - self.identity_error))
        self.identity_window.zero_()

    def task_index(self, batch: EditExample) -> Tensor:  # -> [B] int64
        """Position of each example's task in `tasks`; an unknown one counts as the first."""
        known = {name: i for i, name in enumerate(self.tasks)}
        # made on the host and sent without waiting: torch.tensor(..., device=) would wait for the GPU in every step
        return torch.tensor([known.get(name, 0) for name in batch.task]).to(self.device, non_blocking=True)

    def on_train_batch_start(self, batch: EditExample, batch_idx: int) -> None:
        # dropout inside layers draws from the global generator: a restart in the same split repeats it exactly
        torch.manual_seed(seed_of(self.seed, "layers", self.global_rank, self.micro_step))

    @property
    def micro_step(self) -> int:
        """Micro-batches started in this run, over all restarts, counted in the current split."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.ready if self._trainer else 0

    def training_step(self, batch: EditExample, batch_idx: int) -> Tensor:
        if self.compiled == "graphs":
            torch.compiler.cudagraph_mark_step_begin()  # what the graphs wrote in the step before is done with
        draws = self._keyed_draws(batch)
        losses = self.loss(batch, draws)
        self.latent_side = draws.noise.shape[-1]
        self.last_losses = {"loss": losses.detach(), "task": self.task_index(batch), "t": draws.t}
        self._window.append((batch.id, batch.prompt, draws.t, losses.detach()))
        return losses.mean()

    def _keyed_draws(self, batch: EditExample) -> Draws:
        """The draws of this micro-batch: functions of the seed and each example's number in the run (`rng.place`).

        A generator serves a block of examples: cheaper than one each, and no rank draws the whole global batch.
        """
        size, world = len(batch.edited), self._trainer.world_size if self._trainer else 1
        first = place(max(0, self.micro_step - 1), self.global_rank, world, size)
        numbers = range(first // BLOCK, (first + size - 1) // BLOCK + 1)
        keys = ((self.seed, "train", number) for number in numbers)
        blocks = [self.draws(batch, torch_rng(*key, device=self.device), BLOCK) for key in keys]
        return Draws(*(torch.cat(parts)[first % BLOCK :][:size] for parts in zip(*blocks, strict=True)))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.balance_tasks:
            self._update_identity_error()

    def setup(self, stage: str) -> None:
        self.autoencoder.to(self.device)
        self.text_encoder.to(self.device)
        if stage == "fit":
            compile_unet(self.unet, self.compiled)

    @torch.no_grad()
    def edit(
        self,
        original: Tensor,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: Any = None,
        clock: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:  # [B 3 H W] -> [B 3 H W]
        """Follow an instruction on each image.

        Args:
            original: [B 3 H W] in [-1, 1], H and W multiples of the autoencoder's factor; or its moments [B 2C h w].
            prompts: one instruction per image.
            seeds: one seed per image: an image's edit does not depend on its neighbours in the batch.
            sampler: in place of the configured one.
            clock: an `editing.timer.Clock`; None = not timed.
            progress: called after each step with the steps done and the steps in all.

        Returns [B 3 H W] in [-1, 1].
        """
        timed = clock or (lambda part: nullcontext())
        with timed("encode"):
            image = self.autoencoder.mode(self._moments(original))
            full = self.conditioner.encode(image, list(prompts))
            full = full._replace(text=full.text.to(next(self.unet.parameters()).dtype))  # here, not at each step
            null = self.conditioner.null(full)
            # on the CPU, as diffusers' pipelines advise: a seed then gives the same pixels on every device
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with timed("sample"), eager(self.compiled), leaner(self.unet):
            z = image * self.autoencoder.scaling_factor
            net: Any = partial(apply_unet, self.unet)
            net = clock.counting(net) if clock else net
            z = (sampler or self.sampler).sample(net, self.objective, full, null, z, generators, progress)
        with timed("decode"), leaner(self.autoencoder.model):
            return self.autoencoder.decode(z).clamp(-1, 1)

    def validation_step(self, batch: EditExample, batch_idx: int) -> dict[str, Tensor]:
        """Scores of the model and of the identity baseline, per example; `callbacks` gathers them."""
        seeds = [seed_of(self.seed, "val", task, i) for task, i in zip(batch.task, batch.id, strict=True)]
        edit = self.edit(batch.original, batch.prompt, seeds)
        return {
            "task": self.task_index(batch),
            "psnr": psnr(edit, batch.edited),
            "ssim": ssim(edit, batch.edited),
            "psnr_identity": psnr(batch.original, batch.edited),
            "ssim_identity": ssim(batch.original, batch.edited),
        }


def _check_fit(unet: Any, autoencoder: Any, text_encoder: Any) -> None:
    """Refuse parts whose widths disagree, by name."""
    wanted = 2 * autoencoder.channels
    if unet.config.in_channels != wanted:
        raise UserError(
            f"the unet takes {unet.config.in_channels} channels, but the autoencoder's latents and the original's need "
            f"{wanted}; choose a unet and an autoencoder that fit"
        )
    width = unet.config.cross_attention_dim
    if width != text_encoder.width:
        raise UserError(
            f"the unet reads text of width {width}, the text encoder writes {text_encoder.width}; choose parts that fit"
        )
