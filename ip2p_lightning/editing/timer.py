"""Time of each part of an edit."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

BESIDE = ("load", "save")  # parts that run in threads of their own


class Clock:
    """Wall seconds by part; number of images, and of evaluations of the net (one image, one branch).

    Args:
        device: a GPU to synchronise with at the end of each part; None = do not.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.images = self.evaluations = 0
        self.device = device
        self.began = time.perf_counter()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time a block as `part`; each part belongs to one thread."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if self.device is not None and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[part] += time.perf_counter() - began

    def counting(self, net: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`net`, its evaluations counted."""

        def counted(z_t: Tensor, t: Tensor, condition: Any) -> Tensor:
            self.evaluations += len(z_t)
            return net(z_t, t, condition)

        return counted

    def summary(self) -> str:
        """Images and evaluations a second since the clock was made, and seconds by part."""
        whole, beside = time.perf_counter() - self.began, [part for part in BESIDE if part in self.seconds]
        parts = [part for part in self.seconds if part not in beside]
        here, there = (", ".join(f"{p} {self.seconds[p]:.2f} s" for p in sorted(ps)) for ps in (parts, beside))
        return (
            f"{self.images} images in {whole:.2f} s: {self.images / whole:.3g} images/s, "
            f"{self.evaluations / whole:.4g} evaluations of the net/s\n{here}" + f"; beside it {there}" * bool(there)
        )
