"""The order of an epoch: exact shares, no repeats, restarts and ranks."""

import math
from collections import Counter

import pytest

from ip2p_lightning.data.batch_sampler import EvalBatches, TrainBatches, TrainPlan, apportion, checked_weights
from ip2p_lightning.errors import UserError


def batches(plan: TrainPlan, size: int = 4, rank: int = 0, world: int = 1, start: int = 0) -> list:
    return list(TrainBatches(plan, size, rank, world, lambda: start))


def test_apportion_is_exact() -> None:
    assert apportion({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}
    assert apportion({"a": 0.1, "b": 0.2, "c": 0.7}, 1000) == {"a": 100, "b": 200, "c": 700}
    for total in range(60):
        weights = {"a": 0.31, "b": 5.7, "c": 1e-6, "d": 2}
        counts = apportion(weights, total)
        assert sum(counts.values()) == total
        assert all(abs(counts[k] - weights[k] * total / sum(weights.values())) < 1 for k in weights)


def test_weights_are_checked() -> None:
    assert checked_weights(None, ["a", "b"]) == {"a": 1, "b": 1}
    assert checked_weights({"a": 0}, ["a", "b"]) == {"b": 1}
    with pytest.raises(UserError, match="did you mean 'derain'"):
        checked_weights({"dereain": 1}, ["derain", "denoise"])
    for bad in (-1, math.nan, math.inf, True):
        with pytest.raises(UserError, match=r"weights\.a"):
            checked_weights({"a": bad}, ["a", "b"])
    with pytest.raises(UserError, match="all are 0"):
        checked_weights({"a": 0, "b": 0}, ["a", "b"])


def test_every_pair_once_an_epoch_in_a_new_order() -> None:
    plan = TrainPlan({"a": 50}, {"a": 1}, 50, seed=1)
    orders = [plan.order(epoch) for epoch in range(3)]
    assert all(sorted((i, draw) for _, i, draw in order) == [(i, 0) for i in range(50)] for order in orders)
    assert orders[0] != orders[1] and orders == [plan.order(epoch) for epoch in range(3)]
    assert orders[0] != TrainPlan({"a": 50}, {"a": 1}, 50, seed=2).order(0)


def test_several_rounds_count_their_draws() -> None:
    order = TrainPlan({"a": 7}, {"a": 1}, 25, seed=0).order(0)
    assert sorted(Counter(i for _, i, _ in order).values()) == [3, 3, 3, 4, 4, 4, 4]
    assert len(set(order)) == 25
    assert [draw for _, _, draw in order] == sorted(draw for _, _, draw in order)


def test_a_part_of_the_data_moves_on() -> None:
    plan = TrainPlan({"a": 100}, {"a": 1}, 25, seed=0)
    assert sorted(i for epoch in range(4) for _, i, _ in plan.order(epoch)) == list(range(100))
    assert all(len(set(plan.order(epoch))) == 25 for epoch in range(12))


def test_a_mixture_has_exact_shares_every_epoch() -> None:
    plan = TrainPlan({"a": 10, "b": 300}, {"a": 1, "b": 3}, 80, seed=0)
    for epoch in range(3):
        assert Counter(task for task, _, _ in plan.order(epoch)) == {"a": 20, "b": 60}
    first = [task for task, _, _ in plan.order(0)]
    assert len(set(first[:40])) == 2  # mixed, not one after the other


@pytest.mark.parametrize("start", [0, 1, 5, 6, 7, 13])
def test_a_restart_goes_on_where_it_stopped(start: int) -> None:
    plan = TrainPlan({"a": 9, "b": 17}, {"a": 1, "b": 2}, 24, seed=4)
    per_epoch = len(TrainBatches(plan, 4, 0, 1, lambda: 0))
    whole = [batch for epoch in range(3) for batch in batches(plan, start=epoch * per_epoch)]
    rest = batches(plan, start=start)
    assert rest == whole[start : (start // per_epoch + 1) * per_epoch]
    assert all(key.epoch == start // per_epoch for batch in rest for key in batch)
    assert list(TrainBatches(plan, 4, 0, 1, lambda: start, total=17)) == whole[start:17]


@pytest.mark.parametrize(("size", "world"), [(1, 1), (4, 1), (2, 3), (12, 1), (16, 4)])
def test_a_run_is_one_sequence_of_examples_whatever_its_batches(size: int, world: int) -> None:
    """Batches go on over the end of an epoch, and may be larger than one; none of its examples is left out."""
    plan = TrainPlan({"a": 7, "b": 3}, {"a": 1, "b": 1}, 10, seed=0)
    total = 240 // (size * world)
    ranks = [list(TrainBatches(plan, size, rank, world, lambda: 0, total)) for rank in range(world)]
    seen = [key for block in zip(*ranks, strict=True) for batch in block for key in batch]
    assert [(key.task, key.index, key.draw) for key in seen[:190]] == [p for e in range(19) for p in plan.order(e)]
    assert [key.epoch for key in seen] == [n // 10 for n in range(len(seen))]


def test_evaluation_shows_each_pair_once_over_all_ranks() -> None:
    alone = [key for batch in EvalBatches({"a": 5, "b": 4}, 2, 3) for key in batch]
    assert len(alone) == len(set(alone)) == 18 and all(key.epoch == 0 for key in alone)
    parts = [[key for batch in EvalBatches({"a": 5, "b": 4}, 2, 3, r, 4) for key in batch] for r in range(4)]
    assert sorted(key for part in parts for key in part) == sorted(alone)
    assert len(EvalBatches({"a": 5}, 1, 3, rank=7, world=8)) == 0
