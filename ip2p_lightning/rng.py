"""Randomness as a pure function of its key, so that workers, restarts and order cannot change it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where they are called: a command's help needs neither
    import numpy as np
    import torch


def seed_of(*key: int | str) -> int:
    """63-bit seed: the head of sha256 over the key's parts, e.g. ``seed_of(seed, epoch, "derain", "rocket.jpg")``."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(*key: int | str) -> np.random.Generator:
    """A NumPy generator that depends on `key` alone."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(seed_of(*key)))


def torch_rng(*key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on `device` that depends on `key` alone."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_of(*key))


def place(micro_step: int, rank: int, world: int, batch: int) -> int:
    """Number of a micro-batch's first example in the run: over all steps and ranks, whatever a step is divided into.

    Optimizer step s of a global batch of G = batch x accumulation x world has the examples s G to (s + 1) G - 1. Which
    pair an example is, and all that is drawn for it, are functions of the seed and its number.

    Args:
        micro_step: micro-batches that the rank has done before, from the run's beginning.
        rank, world: of the process, and how many there are.
        batch: examples of a micro-batch.
    """
    return (micro_step * world + rank) * batch
