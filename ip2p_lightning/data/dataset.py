"""Examples by key: what an example is depends on the seed and its key, not on who asks, when, or in which process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ip2p_lightning.data.batch_sampler import Key
from ip2p_lightning.data.example import EditExample
from ip2p_lightning.data.prompts import PromptPool, mentions_side
from ip2p_lightning.data.sources.base import Pairs, Split
from ip2p_lightning.data.transforms import View
from ip2p_lightning.rng import numpy_rng


@dataclass(eq=False)
class EditDataset(Dataset[EditExample]):
    """The examples of one task and split; `task`, `seed` and `split` are part of every key.

    pairs: the images, and their own instructions if they have any.
    prompts: drawn from for pairs without their own instruction.
    view: scale, crop and flip.
    held_out: draw from the prompts that training never sees.
    """

    pairs: Pairs
    prompts: PromptPool
    task: str
    view: View
    seed: int
    split: Split = "train"
    held_out: bool = False

    def __post_init__(self) -> None:
        self.view = replace(self.view, raw=True)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int, int]) -> EditExample:
        """The example of ``(epoch, index, draw)``. Raises DataError: a file cannot be read, or the two sizes differ.

        Pixels and words have generators of their own, so that another prompt pool shows the same crops. A prompt that
        names a side forbids the flip, and nothing else.
        """
        place, prompt, view = self.drawn(key)
        original, edited = self.pairs.pair(key[1], numpy_rng(*place, "image"), view)
        return EditExample(to_tensor(original), to_tensor(edited), prompt, self.task, self.pairs.id(key[1]))

    def drawn(self, key: tuple[int, int, int]) -> tuple[tuple[int | str, ...], str, View]:
        """What ``(epoch, index, draw)`` decides before any pixel is read: key of its randomness, prompt, view."""
        epoch, index, draw = key
        name = self.pairs.id(index)
        place = (self.seed, "data", self.task, self.split, epoch, name, draw)
        prompt = None if self.held_out else self.pairs.prompt(index)  # the pairs' own ones are trained on
        if prompt is None and self.split == "train":
            prompt = self.prompts.draw(numpy_rng(*place, "prompt"), held_out=self.held_out)
        elif prompt is None:  # each draw of a pair has another sentence: as many draws as sentences show them all
            order = numpy_rng(*place[:-1], "prompts")
            prompt = self.prompts.in_order(draw, order, held_out=self.held_out)
        view = replace(self.view, flip=0.0) if self.view.flip and mentions_side(prompt) else self.view
        return place, prompt, view


class TaskDatasets(Dataset[EditExample]):
    """The datasets of several tasks, asked by `Key`."""

    def __init__(self, tasks: Mapping[str, EditDataset]) -> None:
        self.tasks = dict(tasks)
        self.sizes = {name: len(dataset) for name, dataset in self.tasks.items()}

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, key: Key) -> EditExample:
        return self.tasks[key.task][key.epoch, key.index, key.draw]

    def id(self, key: Key) -> str:
        """Name of the pair that `key` asks for."""
        return self.tasks[key.task].pairs.id(key.index)


def to_tensor(image: np.ndarray) -> Tensor:
    """``[H W 3]``, float32 in [0, 1] or uint8 in 0..255, to ``[3 H W]`` float32 in [-1, 1].

    The same numbers either way; bytes are turned into planes while they are bytes, which is several times as fast.
    """
    height, width = image.shape[:2]
    planes = torch.empty(3, height, width)
    if image.dtype == np.uint8:
        loose = np.empty((3, height, width), np.uint8)
        for channel in range(3):  # a plane at a time: NumPy's own transposition goes pixel by pixel
            loose[channel] = image[:, :, channel]
        planes.copy_(torch.from_numpy(loose)).mul_(1 / 255)
    else:
        planes.copy_(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)))
    return planes.mul_(2).sub_(1)
