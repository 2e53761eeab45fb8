"""What a LightningModule needs whatever it learns: optimizer, non-finite check, averaged weights, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ip2p_lightning.errors import DamagedError, NonFiniteError, UserError
from ip2p_lightning.networks.weights_digest import weight_digest
from ip2p_lightning.training.fsdp import exchange, gathered, like, local, shard, whole
from ip2p_lightning.training.gradient_guard import Guard, Step, can_mask
from ip2p_lightning.training.lr_schedule import LearningRate

_HYPERPARAMETERS = ("lr", "weight_decay", "betas", "eps", "momentum")  # of an optimizer, where it has them


class TrainedModule(LightningModule):
    """A LightningModule whose steps are checked for non-finite gradients, averaged and exactly resumable.

    Args:
        optimizer: called with the parameters.
        schedule: factor on the learning rate.
        max_skips: non-finite optimizer steps that are skipped before training stops.
    """

    def __init__(
        self, optimizer: Callable[..., torch.optim.Optimizer] | None, schedule: LearningRate | None, max_skips: int
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule, self.max_skips = optimizer, schedule or LearningRate(), max_skips
        self.ema: Any = None
        self.grad_norm = torch.tensor(0.0)
        self.path: str | None = None  # where the weights came from
        self.guard, self._skip, self._sharded = Guard(), False, False
        self._masked: Tensor | None = None  # 1 where the optimizer skips this step, as the device alone knows yet
        self._window: list[tuple[Any, ...]] = []  # ids, prompts, t and losses of the optimizer step under way
        self._unjudged: Step | None = None  # the step before it, where verdicts are read a step late

    @staticmethod
    def _sum_over_ranks(value: Tensor) -> Tensor:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(value)
        return value

    def configure_model(self) -> None:
        """Where the strategy shards (it sets the mesh), spread what is trained over the ranks; once."""
        if self._device_mesh is None or self._sharded:
            return
        self._sharded = True
        for network in self.children():
            if any(p.requires_grad for p in network.parameters()):
                shard(network, self._device_mesh["data_parallel"])
        if self.ema is not None:
            self.ema.shadow_params = [p.detach().clone() for p in self._trained()]

    def configure_optimizers(self) -> dict[str, Any]:
        if self.optimizer is None:
            raise UserError("no optimizer was given; choose one: optimizer=adamw")
        try:
            optimizer = self.optimizer(self._trained())
        except ValueError as error:  # torch's and timm's word for a setting out of range
            raise UserError(f"optimizer: {error}") from None
        self._asked = [{k: v for k, v in g.items() if k in _HYPERPARAMETERS} for g in optimizer.param_groups]
        total = max(1, self.trainer.max_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """A restored optimizer brings its old settings; the config's hold, where resume_allow let them differ."""
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
        scaler = self._scaler
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # Lightning leaves that to a fused step, which comes after the clipping
        parameters = [p for p in self.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)
        self.grad_norm = whole(norm)
        step = Step(self.global_step, self.grad_norm, self._window)
        if can_mask(optimizer, norm) and scaler is None:
            bad = self.guard.masked(self.grad_norm, optimizer)
            self._masked = optimizer.found_inf
            if bad and self.ema is not None:
                self.ema.optimization_step -= 1  # it did not move
            step, self._unjudged = self._unjudged or step, step
        else:
            bad = self._skip = self.guard.immediate(self.grad_norm, self._scale_is_tried)
        if self._skip:
            for parameter in parameters:
                parameter.grad = None
        if bad and self.guard.skipped > self.max_skips:
            raise NonFiniteError(step.described(self.guard.skipped))

    @property
    def _scaler(self) -> Any:
        """fp16's gradient scaler, whose scale is halved after a gradient that is not finite, and grows in time."""
        return getattr(self.trainer.precision_plugin, "scaler", None) if self._trainer else None

    def _scale_is_tried(self) -> bool:
        """Whether a non-finite gradient only means that the scale is too large: losses are finite on every rank."""
        if self._scaler is None or self._scaler.get_scale() <= 1:
            return False
        losses = torch.cat([losses for *_, losses in self._window])
        return not self._sum_over_ranks((~torch.isfinite(losses)).sum())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._skip, self._masked = False, None
        super().optimizer_step(*args, **kwargs)
        self._window = []
        trained = self._trained()
        for parameter in trained:  # Lightning would after the next forward pass: they would be held beside activations
            parameter.grad = None
        if self.ema is not None and not self._skip:
            self.ema.step(trained, self._masked)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def _average(self, decay: float | None) -> Any:
        if decay is None:
            return None
        if not 0 <= decay < 1:
            raise UserError(f"model.ema={decay} is no decay; give a number in [0, 1), or null for none")
        from ip2p_lightning.training.ema import Average

        return Average(self._trained(), decay=decay, foreach=True)

    def on_fit_start(self) -> None:
        if self.ema is not None:
            self.ema.to(device=self.device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the raw ones, then the raw ones again; sharded ones are whole meanwhile."""
        self._swap()
        try:
            with gathered(self):
                yield
        finally:
            self._swap()

    def _swap(self) -> None:
        """Exchange raw and averaged weights, if any, without a third copy (3.4 GB for Stable Diffusion 1.5)."""
        if self.ema is None or self.ema.optimization_step == 0:
            return
        shadow = self.ema.shadow_params
        for place, parameter in enumerate(self._trained()):
            if self._sharded:
                exchange(parameter, shadow[place])
            else:
                parameter.data, shadow[place] = shadow[place], parameter.data

    @cached_property
    def base(self) -> dict[str, Any] | None:
        """What identifies the frozen weights, which a checkpoint does not hold; None where all are trained."""
        frozen = self._frozen()
        return {"path": self.path, **weight_digest(frozen)} if frozen else None

    def _frozen(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters() if not p.requires_grad}

    def completed(self, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """A checkpoint's weights and the frozen ones. Raises DamagedError if it was trained with other frozen ones."""
        held = checkpoint.get("base") or {"sha256": "none"}
        if self.base is not None and held["sha256"] != self.base["sha256"]:
            raise DamagedError(
                f"the base weights at {self.path} are not those that this run was trained with: sha256 "
                f"{self.base['sha256'][:16]}, then {held['sha256'][:16]} at {held.get('path')}; put those back"
            )
        return {**self._frozen(), **checkpoint["state_dict"]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._require_finite_weights()
        if self.base is not None:
            frozen = self._frozen()
            checkpoint["state_dict"] = {n: w for n, w in checkpoint["state_dict"].items() if n not in frozen}
            checkpoint["base"] = self.base
        late = self.guard.unread()
        checkpoint["skipped"] = self.guard.skipped + late
        if self.ema is not None:
            names = [name for name, p in self.named_parameters() if p.requires_grad]
            checkpoint["ema"] = {
                "step": self.ema.optimization_step - late,
                "weights": dict(zip(names, map(self._for_the_writer, self.ema.shadow_params), strict=True)),
            }

    def _require_finite_weights(self) -> None:
        """Finite gradients are no proof of finite weights: the optimizer multiplies them."""
        if not all(bool(local(p.detach()).isfinite().all()) for p in self._trained()):
            raise NonFiniteError(
                f"step {self.global_step}: weights are not finite; not saved (earlier ones stay); lower optimizer.lr"
            )

    def _for_the_writer(self, weight: Tensor) -> Tensor | None:
        """A sharded weight whole in the memory of the rank that writes; the others help, and keep nothing."""
        if not self._sharded:
            return weight
        full = whole(weight)
        return full.cpu() if self.trainer.is_global_zero else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "state_dict" in checkpoint:  # of a sharded model the strategy has taken it out already
            checkpoint["state_dict"] = self.completed(checkpoint)
        self.guard.skipped = checkpoint.get("skipped", 0)
        self._recount(checkpoint)
        if self.ema is not None and "ema" in checkpoint:
            self.ema.optimization_step = checkpoint["ema"]["step"]
            weights = checkpoint["ema"]["weights"]
            trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
            if odd := sorted(weights.keys() ^ trained.keys()):
                raise DamagedError(
                    f"the checkpoint's averaged weights are not this model's: {odd[0]} is in one of them"
                )
            self.ema.shadow_params = [like(weights[name], p) for name, p in trained.items()]

    def _recount(self, checkpoint: Mapping[str, Any]) -> None:
        """Lightning counts micro-batches; a run may go on with steps that are divided into more or fewer of them."""
        if not self._trainer or "loops" not in checkpoint or self.trainer.overfit_batches:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        more = checkpoint["global_step"] * self.trainer.accumulate_grad_batches - progress["total"]["processed"]
        for counts in (progress["total"], progress["current"]):
            counts.update({name: count + more for name, count in counts.items()})
