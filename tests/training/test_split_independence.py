"""A step of eight examples, divided into micro-batches and ranks in any way, is the same step but for rounding."""

import numpy as np
import pytest
from PIL import Image

from tests.support.pieces import write_pairs
from tests.support.splits import Fit, Split, fit

STEPS, SIZE = 10, 8  # 80 examples: two epochs of 33, and a bit; no step ends where an epoch does
SPLITS, LATER = [Split(2, 4), Split(1, 8), Split(4, 1, 2)], [Split(4, 2), Split(4, 1, 2)]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Three tasks of eleven photos, crops, flips, drops, balanced by their running error."""
    root = tmp_path_factory.mktemp("photos")
    for i in range(13):
        low = np.random.default_rng(i).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(low).resize((40, 40)).save(root / f"{i}.png")
    recipe = ("model=tiny", "unet.widths=[8,16,16]", "model.balance_tasks=true", "model.drop=0.2", "cache=off")
    return (*recipe, "loader.size=32", "task.weights={cartoon: 0}", "optimizer.lr=1e-3", f"data.root={root}")


def check(one: Fit, other: Fit, bound: float, steps: int = STEPS, size: int = SIZE) -> None:
    """The same examples and draws, to the bit; losses and weights within bounds."""
    assert one.seen.keys() == other.seen.keys() == set(range(steps * size))
    assert all(one.seen[n][:-1] == other.seen[n][:-1] for n in one.seen)
    losses, others = one.losses(size), other.losses(size)
    assert others[0] == pytest.approx(losses[0], rel=min(1e-5, bound))
    assert others == pytest.approx(losses, rel=bound)
    assert (one.moved - other.moved).norm() <= bound * one.moved.norm() and one.moved.norm() > 0


@pytest.mark.parametrize(
    ("double", "bound"), [(True, 1e-9), pytest.param(False, 1e-3, marks=pytest.mark.slow)], ids=["float64", "float32"]
)
def test_any_split_is_the_same_step_and_may_be_changed_on_the_way(words, tmp_path, double, bound):
    whole = fit(Split(8, 1), words, STEPS, tmp_path / "whole", double=double)
    for split in SPLITS:
        check(whole, fit(split, words, STEPS, tmp_path / str(split), double=double), bound)
    middle = tmp_path / str(Split(2, 4)) / "middle.ckpt"
    for split in LATER:
        rest = fit(split, words, STEPS, tmp_path / f"{split} continued", middle, double)
        first = whole.seen.keys() - rest.seen.keys()
        assert first == set(range(STEPS // 2 * SIZE))
        check(whole, rest._replace(seen={n: whole.seen[n] for n in first} | rest.seen), bound)


def test_workers_do_not_matter(words, tmp_path):
    one, other = (
        fit(Split(4, 1, 1) if n else Split(2, 2), (*words, f"loader.workers={n}"), 4, tmp_path / str(n)) for n in (0, 2)
    )
    check(one, other, 1e-3, 4, 4)


def test_crops_and_flips_from_a_cache_and_adapters_too(sd_folder, tmp_path):
    pytest.importorskip("peft")
    root = write_pairs(tmp_path / "pairs", 7)
    (root / "val").symlink_to(root / "train")
    words = ("model=local", f"model.path={sd_folder}", "unet=sd_lora", "unet.lora.dropout=0", "task=own", "cache=disk")
    words += (
        f"cache_dir={tmp_path}/cache",
        "data=folder",
        f"data.root={root}",
        "task.prompts.prompts=[edit the image]",
        "loader.size=32",
        "optimizer.lr=1e-3",
    )
    fits = [fit(split, words, 6, tmp_path / str(split)) for split in (Split(4, 1), Split(1, 4), Split(2, 2))]
    assert len({drawn[3] for drawn in fits[0].seen.values()}) > 7  # several views of seven pairs
    for found in fits[1:]:
        check(fits[0], found, 1e-3, 6, 4)
