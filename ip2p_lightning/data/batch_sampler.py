"""The order of an epoch as a pure function of (seed, epoch): nothing to save, nothing to restore.

After a restart the position alone (optimizer steps taken, which every checkpoint holds) says where to go on;
micro-batches and ranks cut their own part from one global order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from ip2p_lightning.errors import UserError, suggest
from ip2p_lightning.rng import numpy_rng, place


class Key(NamedTuple):
    """What decides an example, together with the seed."""

    task: str
    epoch: int
    """The epoch its randomness belongs to; 0 for evaluation."""
    index: int  # type: ignore[assignment]  # tuple.index is not used
    """Number of the pair in its split."""
    draw: int
    """How often the pair was drawn before in this epoch."""


def checked_weights(weights: Mapping[str, float] | None, tasks: list[str]) -> dict[str, float]:
    """Weights of the tasks that take part; a task that is not named weighs 1, a task of weight 0 is left out.

    Raises UserError: an unknown task, a weight that is negative or not finite, or none above 0.
    """
    given = dict(weights or {})
    for name, weight in given.items():
        if name not in tasks:
            raise UserError(f"weights.{name}: no such task{suggest(name, tasks)} (there are {', '.join(tasks)})")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise UserError(f"weights.{name}={weight}: give a number, 0 or more")
    checked = {name: float(given.get(name, 1.0)) for name in tasks}
    active = {name: weight for name, weight in checked.items() if weight > 0}
    if not active:
        raise UserError(f"weights: all are 0; give one of {', '.join(tasks) or 'at least one task'} more")
    return active


def apportion(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` split in proportion to `weights`, exactly, by largest remainder (Hamilton); ties go to the earlier name.

    The counts sum to `total`, and each is within 1 of its exact share.
    """
    whole = sum(Fraction(w) for w in weights.values())  # exact: 0.1 + 0.2 must not decide a tie
    shares = {name: Fraction(w) * total / whole for name, w in weights.items()}
    counts = {name: math.floor(share) for name, share in shares.items()}
    by_remainder = sorted(weights, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


class TrainPlan:
    """Which pair comes when, for every epoch.

    Task counts are exact in every epoch. Within a task, pairs come in permutations without replacement; counts of two
    pairs in an epoch differ by at most one. Where an epoch is a part of the data only, successive epochs take
    successive parts.

    sizes: pairs per task.
    weights: share of each task in an epoch, any positive scale.
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float], epoch_size: int, seed: int) -> None:
        self.sizes, self.epoch_size, self.seed = dict(sizes), epoch_size, seed
        self.counts = apportion({name: weights[name] for name in sizes}, epoch_size)

    def __len__(self) -> int:
        return self.epoch_size

    def order(self, epoch: int) -> list[tuple[str, int, int]]:
        """``(task, index, draw)`` for every place of the epoch."""
        tasks = list(self.counts)
        labels = np.repeat(np.arange(len(tasks)), [self.counts[name] for name in tasks])
        labels = numpy_rng(self.seed, "plan", "tasks", epoch).permutation(labels)
        indices, draws = np.empty_like(labels), np.empty_like(labels)
        for number, name in enumerate(tasks):
            own = labels == number
            indices[own], draws[own] = self._task(name, epoch), np.arange(self.counts[name]) // self.sizes[name]
        return [(tasks[t], i, d) for t, i, d in zip(labels.tolist(), indices.tolist(), draws.tolist(), strict=True)]

    def _task(self, name: str, epoch: int) -> np.ndarray:
        """Pair numbers of one task in the order they are shown."""
        size = self.sizes[name]
        rounds, rest = divmod(self.counts[name], size)
        passes = [numpy_rng(self.seed, "plan", name, epoch, r).permutation(size) for r in range(rounds)]
        if rest:
            per_pass = size // rest  # epochs that one permutation serves with `rest` new pairs each
            number, part = divmod(epoch, per_pass)
            shuffled = numpy_rng(self.seed, "plan", name, "rest", number).permutation(size)
            passes.append(shuffled[part * rest : (part + 1) * rest])
        return np.concatenate(passes) if passes else np.empty(0, dtype=np.int64)


class TrainBatches(Sampler[list[Key]]):
    """Batches of keys for one rank, from the run's position on.

    A run is one endless sequence of examples, epoch after epoch (see `rng.place`), so that nothing depends on how a
    step is divided into micro-batches and ranks. A batch may hold the end of an epoch and the beginning of the next:
    no example is left out, and none of a step is missing.

    batch_size: examples per batch and rank.
    rank, world: number of this process, and of processes.
    start: micro-batches this rank has already done in the whole run; asked at every ``iter()``.
    total: micro-batches of the whole run; None: as many as an epoch fills, at least one.
    """

    def __init__(
        self,
        plan: TrainPlan,
        batch_size: int,
        rank: int,
        world: int,
        start: Callable[[], int],
        total: int | None = None,
    ) -> None:
        self.plan, self.batch_size, self.rank, self.world, self.start = plan, batch_size, rank, world, start
        self.total = total
        self.per_epoch = max(1, len(plan) // (batch_size * world))
        self._epoch, self._order = -1, list[tuple[str, int, int]]()

    def __len__(self) -> int:
        """Batches in the whole run, or in a whole epoch, whatever the position."""
        return self.per_epoch if self.total is None else self.total

    def __iter__(self) -> Iterator[list[Key]]:
        done = self.start()  # asked now, not at the first next(): the loader prefetches
        end = (done // self.per_epoch + 1) * self.per_epoch if self.total is None else self.total
        return map(self._batch, range(done, end))

    def _batch(self, micro_step: int) -> list[Key]:
        first = place(micro_step, self.rank, self.world, self.batch_size)
        return [self._key(number) for number in range(first, first + self.batch_size)]

    def _key(self, number: int) -> Key:
        epoch, at = divmod(number, len(self.plan))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.plan.order(epoch)
        task, index, draw = self._order[at]
        return Key(task, epoch, index, draw)


class EvalBatches(Sampler[list[Key]]):
    """Every pair of every task `draws` times, in a fixed order; rank r takes places r, r + world, ...: none twice.

    draws: times each pair is shown, with a degradation and prompt of its own.
    batch_size: examples per batch; the last one may be smaller.
    """

    def __init__(self, sizes: Mapping[str, int], draws: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        places = [Key(task, 0, i, d) for task, size in sizes.items() for d in range(draws) for i in range(size)]
        self.keys, self.batch_size = places[rank::world], batch_size

    def __len__(self) -> int:
        return -(-len(self.keys) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        return (self.keys[i : i + self.batch_size] for i in range(0, len(self.keys), self.batch_size))
