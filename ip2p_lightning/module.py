"""The LightningModule: autoencoder, text encoder and UNet under one objective.

Legend: B batch, C latent channels, H W pixels, h w latent size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ip2p_lightning.data.example import EditExample
from ip2p_lightning.errors import NonFiniteError, UserError
from ip2p_lightning.guard import Guard, can_mask
from ip2p_lightning.metrics import psnr, ssim
from ip2p_lightning.networks import Conditioner, apply_unet
from ip2p_lightning.randomness import seed_of, torch_rng

_HYPERPARAMETERS = ("lr", "weight_decay", "betas", "eps", "momentum")  # of an optimizer, where it has them


class Draws(NamedTuple):
    """The random numbers of one batch: everything else in the loss is arithmetic."""

    t: Tensor  # [B]: integer steps, or times in [0, 1)
    noise: Tensor  # [B C h w] standard normal
    posterior: Tensor  # [B C h w] standard normal: the autoencoder's sample
    u: Tensor  # [B] uniform in [0, 1): the conditioning dropout


class LearningRate:
    """A factor on the learning rate: linear warm-up, then constant or a cosine to zero (Loshchilov & Hutter 2017).

    Args:
        shape: what comes after the warm-up.
        warmup: optimizer steps from 0 to the full rate.
    """

    def __init__(self, shape: Literal["constant", "cosine"] = "constant", warmup: int = 0) -> None:
        if warmup < 0:
            raise UserError(f"schedule.warmup={warmup} is negative; give optimizer steps, 0 or more")
        self.shape, self.warmup = shape, warmup

    def factor(self, step: int, total: int) -> float:
        """The factor at optimizer step `step` of `total`."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.shape == "constant":
            return 1.0
        done = (step - self.warmup) / max(1, total - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class EditDiffusion(LightningModule):
    """Learns p(edited | original, instruction).

    Args:
        unet: the network that is trained; called like diffusers' ``UNet2DConditionModel``.
        autoencoder, text_encoder: see ``networks``; frozen unless ``text_encoder.trainable``.
        objective, sampler: see ``diffusion``.
        optimizer: called with the parameters.
        schedule: factor on the learning rate.
        tasks: names, for the losses per task and their normalisation.
        seed: key of all random numbers drawn here.
        path: where the weights came from, for the record.
        drop: p of the three-way conditioning dropout (InstructPix2Pix, section 3.2.1); 0 = off.
        ema: decay of the averaged weights, ramped as min(decay, (1 + n) / (10 + n)); None = no average.
        balance_tasks: divide each task's loss by its running identity error, so that a task whose pairs lie far apart
            does not drown the others.
        gradient_checkpointing: recompute activations in the backward pass.
        channels_last: keep the unet's weights in that memory format; the same numbers, often faster.
        compile: torch.compile of the unet: regional (each kind of transformer block once) or full; takes minutes at
            the first step.
        max_skips: non-finite optimizer steps that are skipped before training stops.

    Raises:
        UserError: parts that do not fit together.
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
        gradient_checkpointing: bool = False,
        channels_last: bool = False,
        compile: Literal["off", "regional", "full"] = "off",
        max_skips: int = 3,
    ) -> None:
        super().__init__()
        _check_fit(unet, autoencoder, text_encoder)
        self.unet = unet
        self.autoencoder, self.text_encoder = autoencoder, text_encoder
        if text_encoder.trainable:
            self.text = text_encoder.model
        self.objective, self.sampler = objective, sampler
        self.conditioner = Conditioner(text_encoder, p=drop, drop_image=objective.start == "noise")
        self.optimizer, self.schedule = optimizer, schedule or LearningRate()
        self.tasks, self.seed, self.path = list(tasks), seed, path
        self.balance_tasks, self.max_skips = balance_tasks, max_skips
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if channels_last:
            unet.to(memory_format=torch.channels_last)
        _compile(unet, compile)
        self.register_buffer("identity_error", torch.zeros(max(1, len(self.tasks))))
        self.register_buffer("identity_count", torch.zeros(max(1, len(self.tasks))))
        self.ema = self._average(ema)
        self.grad_norm = torch.tensor(0.0)
        self.last_losses: dict[str, Any] = {}
        self.any_world = False  # whether a checkpoint of another number of ranks may be continued
        self.merge = 1  # micro-batches that the loader hands over as one
        self.guard, self._skip, self._window = Guard(), False, []

    # -- the loss ----------------------------------------------------------------------------------------------------

    def draws(self, batch: EditExample, generator: torch.Generator) -> Draws:
        """The random numbers of a batch, all from `generator`, on the module's device."""
        count, _, height, width = batch.edited.shape
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
        loss = self.objective.loss(self._net, z_edited, condition, draws.t, draws.noise, z_original)
        return loss / self._identity_error(batch, z_edited, z_original) if self.balance_tasks else loss

    def _is_encoded(self, x: Tensor) -> bool:
        """Whether a cache has encoded a batch's images: [B 2C h w] in place of [B 3 H W]."""
        return x.shape[1] == 2 * self.autoencoder.channels

    def _moments(self, x: Tensor) -> Tensor:  # -> [B 2C h w]
        return x if self._is_encoded(x) else self.autoencoder.moments(x)

    def _net(self, z_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        return apply_unet(self.unet, z_t, t, condition)

    def _identity_error(self, batch: EditExample, z_edited: Tensor, z_original: Tensor) -> Tensor:  # -> [B]
        """Running mean of |edited - original|^2 over each example's task; updated in training, the same on every rank."""
        index = self.task_index(batch)
        if self.training:
            with torch.no_grad():
                error = (z_edited - z_original).float().square().flatten(1).mean(1)
                finite = torch.isfinite(error)  # a poisoned example must not stay in the mean
                sums = torch.zeros_like(self.identity_error).index_add_(0, index, error.where(finite, 0))
                counts = torch.zeros_like(self.identity_count).index_add_(0, index, finite.float())
                sums, counts = self._sum_over_ranks(torch.stack([sums, counts]))
                # a mean over roughly the last 100 examples of the task
                self.identity_count.copy_((self.identity_count + counts).clamp(max=100))
                step = counts / self.identity_count.clamp(min=1)
                mean = sums / counts.clamp(min=1)
                self.identity_error.add_(step.clamp(max=1) * (mean - self.identity_error))
        return self.identity_error[index].clamp(min=1e-6)

    @staticmethod
    def _sum_over_ranks(value: Tensor) -> Tensor:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(value)
        return value

    def task_index(self, batch: EditExample) -> Tensor:  # -> [B] int64
        """Position of each example's task in `tasks`; an unknown one counts as the first."""
        known = {name: i for i, name in enumerate(self.tasks)}
        return torch.tensor([known.get(name, 0) for name in batch.task], device=self.device)

    # -- training ----------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: EditExample, batch_idx: int) -> None:
        # Dropout layers draw from the global generator: keyed by the micro-step, a restart repeats them exactly.
        torch.manual_seed(seed_of(self.seed, "layers", self.global_rank, self.micro_step))

    @property
    def micro_step(self) -> int:
        """Micro-batches begun in this run, over all restarts."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.ready if self._trainer else 0

    def training_step(self, batch: EditExample, batch_idx: int) -> Tensor:
        draws = self._keyed_draws(batch)
        losses = self.loss(batch, draws)
        self.last_losses = {"loss": losses.detach(), "task": self.task_index(batch), "t": draws.t}
        self._window.append((batch.id, batch.prompt, draws.t, losses.detach()))
        return losses.mean()

    def _keyed_draws(self, batch: EditExample) -> Draws:
        """The draws of this micro-batch; of a merged one, those that its parts would have had by themselves."""
        size = len(batch.edited) // self.merge
        part = batch._replace(edited=batch.edited[:size])
        first = (self.micro_step - 1) * self.merge + 1
        keys = [(self.seed, "train", self.global_rank, first + number) for number in range(self.merge)]
        draws = [self.draws(part, torch_rng(*key, device=self.device)) for key in keys]
        return Draws(*map(torch.cat, zip(*draws, strict=True)))

    def configure_optimizers(self) -> dict[str, Any]:
        if self.optimizer is None:
            raise UserError("no optimizer was given; choose one: optimizer=adamw")
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        self._asked = [{k: v for k, v in g.items() if k in _HYPERPARAMETERS} for g in optimizer.param_groups]
        total = max(1, self.trainer.max_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """A restored optimizer brings its old settings with it; the config's hold, where resume_allow let them differ."""
        for optimizer, config in zip(self.trainer.optimizers, self.trainer.lr_scheduler_configs, strict=True):
            config.scheduler.base_lrs = [asked["lr"] for asked in self._asked]
            for group, asked in zip(optimizer.param_groups, self._asked, strict=True):
                group.update(asked, initial_lr=asked["lr"])
                group["lr"] = asked["lr"] * self.schedule.factor(config.scheduler.last_epoch, self.trainer.max_steps)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip to `gradient_clip_val`; a gradient that is not finite is thrown away before it reaches the weights."""
        parameters = [p for p in self.parameters() if p.grad is not None]
        self.grad_norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)
        if can_mask(optimizer, self.grad_norm) and self._scaler is None:
            bad = self.guard.masked(self.grad_norm, optimizer)
        else:
            bad = self._skip = self.guard.immediate(self.grad_norm)
        if self._skip:
            for parameter in parameters:
                parameter.grad = None
        if bad and self.skipped > self.max_skips:
            raise NonFiniteError(self._describe_window())

    @property
    def _scaler(self) -> Any:
        """fp16's gradient scaler, which masks steps by itself."""
        return getattr(self.trainer.precision_plugin, "scaler", None) if self._trainer else None

    @property
    def skipped(self) -> int:
        """Optimizer steps thrown away so far; on a GPU, up to the one before the last."""
        return self.guard.skipped

    @skipped.setter
    def skipped(self, count: int) -> None:
        self.guard.skipped = count

    def _describe_window(self) -> str:
        ids, prompts, times, losses = zip(*self._window, strict=True)
        examples = [
            f"{i} {p!r} t={float(t):g} loss={float(x):g}"
            for group in zip(ids, prompts, times, losses, strict=True)
            for i, p, t, x in zip(*group, strict=True)
        ]
        worst = [e for e in examples if "nan" in e or "inf" in e] or examples
        return (
            f"step {self.global_step}: gradient norm {float(self.grad_norm):g} after {self.skipped} steps that were not "
            f"finite; examples: {'; '.join(worst[:8])}; lower optimizer.lr or look at these pairs"
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._skip = False
        super().optimizer_step(*args, **kwargs)
        self._window.clear()
        if self.ema is not None and not self._skip:
            self.ema.step(self._trained())

    # -- averaged weights --------------------------------------------------------------------------------------------

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def _average(self, decay: float | None) -> Any:
        if decay is None:
            return None
        if not 0 <= decay < 1:
            raise UserError(f"model.ema={decay} is no decay; give a number in [0, 1), or null for none")
        from ip2p_lightning.averaging import Average

        return Average(self._trained(), decay=decay, foreach=True)

    def on_fit_start(self) -> None:
        if self.ema is not None:
            self.ema.to(device=self.device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the raw ones; the raw ones again afterwards."""
        if self.ema is None or self.ema.optimization_step == 0:
            yield
            return
        self.ema.store(self._trained())
        self.ema.copy_to(self._trained())
        try:
            yield
        finally:
            self.ema.restore(self._trained())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped"] = self.skipped
        checkpoint["world"] = self.trainer.world_size
        if self.ema is not None:
            names = [name for name, p in self.named_parameters() if p.requires_grad]
            checkpoint["ema"] = {
                "step": self.ema.optimization_step,
                "weights": dict(zip(names, self.ema.shadow_params, strict=True)),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped = checkpoint.get("skipped", 0)
        world = checkpoint.get("world")
        if self._trainer and world not in (None, self.trainer.world_size) and not self.any_world:
            raise UserError(
                f"this run was trained by {world} ranks, now there are {self.trainer.world_size}: the batches would "
                "differ; use as many, or allow it with 'resume_allow=[world]'"
            )
        if self.ema is not None and "ema" in checkpoint:
            self.ema.optimization_step = checkpoint["ema"]["step"]
            self.ema.shadow_params = [w.to(self.device).clone() for w in checkpoint["ema"]["weights"].values()]

    # -- editing -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        self.autoencoder.to(self.device)
        self.text_encoder.to(self.device)

    @torch.no_grad()
    def edit(
        self, original: Tensor, prompts: Sequence[str], seeds: Sequence[int], sampler: Any = None
    ) -> Tensor:  # [B 3 H W] -> [B 3 H W]
        """Follow an instruction on each image.

        Args:
            original: [B 3 H W] in [-1, 1]; H and W multiples of the autoencoder's factor.
            prompts: one instruction per image.
            seeds: one seed per image: an image's edit does not depend on its neighbours in the batch.
            sampler: in place of the configured one.

        Returns:
            [B 3 H W] in [-1, 1].
        """
        image = self.autoencoder.mode(self.autoencoder.moments(original))
        condition = self.conditioner.encode(image, list(prompts))
        # on the CPU, as diffusers' pipelines advise: a seed then gives the same pixels on every device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        z = (sampler or self.sampler).sample(
            self._net,
            self.objective,
            condition,
            self.conditioner.null(condition),
            image * self.autoencoder.scaling_factor,
            generators,
        )
        return self.autoencoder.decode(z).clamp(-1, 1)

    def validation_step(self, batch: EditExample, batch_idx: int) -> dict[str, Tensor]:
        """Scores of the model and of the identity edit, per example; `callbacks` gathers them."""
        seeds = [seed_of(self.seed, "val", task, i) for task, i in zip(batch.task, batch.id, strict=True)]
        edit = self.edit(batch.original, batch.prompt, seeds)
        return {
            "task": self.task_index(batch),
            "psnr": psnr(edit, batch.edited),
            "ssim": ssim(edit, batch.edited),
            "psnr_identity": psnr(batch.original, batch.edited),
            "ssim_identity": ssim(batch.original, batch.edited),
        }


def _compile(unet: Any, how: str) -> None:
    """Compile a unet in place: its parameters keep their names."""
    if how == "full":
        unet.compile()
    elif how == "regional":
        if not getattr(unet, "_repeated_blocks", None):
            raise UserError("model.compile=regional needs repeated blocks, which this unet has not; use off or full")
        unet.compile_repeated_blocks()


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
