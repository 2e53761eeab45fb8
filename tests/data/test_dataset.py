"""Examples are functions of their key."""

import numpy as np
import torch

from ip2p_lightning.data.batch_sampler import Key
from ip2p_lightning.data.dataset import EditDataset, TaskDatasets, to_tensor
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.data.transforms import View


class Gradients:
    """Pairs of the same image twice, brighter to the right; the second with an instruction of its own."""

    def __len__(self) -> int:
        return 2

    def id(self, i: int) -> str:
        return f"pair{i}"

    def prompt(self, i: int) -> str | None:
        return "own words" if i else None

    def pair(self, i: int, rng: np.random.Generator, view: View):
        ramp = np.repeat(np.arange(0, 240, 3, dtype=np.uint8)[None, :, None], 60, axis=0)
        return tuple(view([np.repeat(ramp, 3, axis=2)] * 2, rng))


def dataset(prompts=("make it so",), **options) -> EditDataset:
    return EditDataset(Gradients(), PromptPool(list(prompts)), "task", View(32, flip=0.5), seed=3, **options)


def flipped(example) -> bool:
    return bool(example.original[0, 0, 0] > example.original[0, 0, -1])


def test_an_example() -> None:
    example = dataset()[0, 0, 0]
    assert example.original.shape == example.edited.shape == (3, 32, 32)
    assert example.original.dtype == torch.float32 and torch.equal(example.original, example.edited)
    assert (example.prompt, example.task, example.id) == ("make it so", "task", "pair0")
    assert dataset()[0, 1, 0].prompt == "own words"  # an instruction of its own comes first
    assert to_tensor(np.array([[[0, 0.5, 1]]], np.float32)).flatten().tolist() == [-1, 0, 1]


def test_the_key_decides() -> None:
    data = dataset()
    keys = [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 0)]
    images = [data[key].original for key in keys]
    assert all(torch.equal(image, dataset()[key].original) for key, image in zip(keys[::-1], images[::-1], strict=True))
    assert len({image.numpy().tobytes() for image in images}) == 4
    assert not torch.equal(images[0], dataset(split="val")[0, 0, 0].original)


def test_the_pool_does_not_move_the_pixels() -> None:
    for draw in range(10):
        a, b = (dataset(pool)[0, 0, draw] for pool in (["one"], ["two", "three", "four"]))
        assert torch.equal(a.original, b.original)


def test_sides_are_not_flipped_when_named() -> None:
    plain = [dataset()[0, 0, d] for d in range(40)]
    sided = [dataset(["darken the left half"])[0, 0, d] for d in range(40)]
    assert 10 <= sum(map(flipped, plain)) <= 30 and not any(map(flipped, sided))
    for a, b in zip(plain, sided, strict=True):  # the crop is the same
        assert torch.equal(a.original.flip(-1) if flipped(a) else a.original, b.original)


def test_several_tasks() -> None:
    both = TaskDatasets({"a": dataset(), "b": dataset()})
    assert len(both) == 4 and both.sizes == {"a": 2, "b": 2}
    assert torch.equal(both[Key("b", 5, 1, 2)].original, dataset()[5, 1, 2].original)


def test_held_out_prompts_are_the_pools_also_where_pairs_have_their_own() -> None:
    pool = PromptPool(["make it so"], ["never seen", "nor this"])
    held_out = EditDataset(Gradients(), pool, "task", View(32), seed=3, split="test", held_out=True)
    assert {held_out[0, 1, draw].prompt for draw in range(2)} == {"never seen", "nor this"}
