"""Gradients that are not finite never reach the weights; how often that happened; on a GPU, without waiting for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """An optimizer step to be judged, and what it was computed from."""

    number: int
    norm: Tensor  # of its gradient
    window: list[tuple[Any, ...]]  # ids, prompts, t and losses of each micro-batch

    def described(self, skipped: int) -> str:
        """The error message where it is one of too many `skipped` ones, with at most eight of its worst examples."""
        examples = [
            f"{i} {p!r} t={float(t):g} loss={float(x):g}"
            for group in self.window
            for i, p, t, x in zip(*group, strict=True)
        ]
        examples = _of_all_ranks(examples)
        worst = [e for e in examples if "nan" in e or "inf" in e] or examples
        return (
            f"step {self.number}: gradient norm {float(self.norm):g} after {skipped} steps that were "
            f"not finite; examples: {'; '.join(worst[:8])}; lower optimizer.lr or look at these pairs"
        )


def _of_all_ranks(examples: list[str]) -> list[str]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return examples
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, examples)  # they all judge one norm: all of them are here
    return [example for part in found for example in part]


class Guard:
    """Judges each optimizer step by its gradient norm.

    `immediate`: the caller drops the gradients. `masked`: the verdict stays on the device, where a fused optimizer
    obeys it (`found_inf`, as torch's GradScaler sets it); the host reads it one step later, without waiting.

    skipped: steps dropped so far; if masked, up to the one before the last.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._flag: Tensor | None = None  # pinned host memory
        self._event: Any = None

    def immediate(self, norm: Tensor, excused: Callable[[], bool] = lambda: False) -> bool:
        """Whether this step must be thrown away; waits for the device. One that is `excused` is not counted."""
        bad = not bool(torch.isfinite(norm))
        self.skipped += bad and not excused()
        return bad

    def masked(self, norm: Tensor, optimizer: Any) -> bool:
        """Let the optimizer skip this step if it must be skipped; whether the step BEFORE it was."""
        bad_before = self.settle()
        optimizer.found_inf = (~torch.isfinite(norm)).float()
        if norm.is_cuda:
            if self._flag is None:
                self._flag, self._event = torch.zeros((), pin_memory=True), torch.cuda.Event()
            self._flag.copy_(optimizer.found_inf, non_blocking=True)
            self._event.record()
        else:
            self._flag = optimizer.found_inf.clone()
        return bad_before

    def unread(self) -> bool:
        """Whether the last step was bad and is not counted yet; waits for the device."""
        if self._flag is None:
            return False
        if self._event is not None:
            self._event.synchronize()
        return bool(self._flag)

    def settle(self) -> bool:
        """Count the last verdict, if it is not counted yet; whether it was bad."""
        bad = self.unread()
        if self._flag is not None:
            self._flag.zero_()
        self.skipped += bad
        return bad


def can_mask(optimizer: Any, norm: Tensor) -> bool:
    """Whether an optimizer leaves weights and moments alone where its `found_inf` is 1, and nothing else sets that."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    whole = type(norm) is Tensor  # a sharded model's norm is a DTensor, which the fused kernels do not take
    return whole and norm.is_cuda and fused and isinstance(optimizer, torch.optim.AdamW | torch.optim.Adam)
