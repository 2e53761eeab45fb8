"""A network spread over the ranks of a group: each holds a part of every weight, of its gradient and its moments.

FSDP2 (torch's ``fully_shard``): a part of the network is made whole on every rank just before it is used, and its
shards are all that stays afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def shard(network: nn.Module, mesh: Any) -> None:
    """Spread a network over a mesh of one dimension, in place: each item of its lists by itself, then the rest."""
    from torch.distributed.fsdp import fully_shard

    for part in (*_items(network), network):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def _items(module: nn.Module, listed: bool = False) -> Iterator[nn.Module]:
    """What the lists of a module hold, at any depth of lists within lists."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from _items(child, listed=True)
        elif listed and any(True for _ in child.parameters()):
            yield child


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Whole weights on every rank, so that ranks may use the network unequally often. Costs their full size."""
    parts = [part for part in module.modules() if hasattr(part, "set_reshard_after_forward")]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, the tensor itself where it is not sharded; it shares its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, on every rank; another one as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A copy of a whole tensor on `pattern`'s device, sharded as `pattern` is."""
    if not hasattr(pattern, "full_tensor"):
        return tensor.to(pattern.device).clone()
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements)


@torch.no_grad()
def exchange(a: Tensor, b: Tensor) -> None:
    """Swap the values of two sharded tensors, whose memory FSDP2 knows by its address."""
    mine, other = local(a.detach()), local(b.detach())
    kept = mine.clone()
    mine.copy_(other)
    other.copy_(kept)
