"""What one training or evaluation example is."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from torch import Tensor


class EditExample(NamedTuple):
    """One edit: an image, the same image after the edit, and the words that ask for it.

    A batch is the same tuple with a leading dimension: images ``[B 3 H W]`` and lists of `B` strings.
    """

    original: Tensor
    """The image before the edit, ``[3 H W]``, float32 in [-1, 1], sRGB."""
    edited: Tensor
    """The image after it, same shape, type and range."""
    prompt: str
    """The instruction."""
    task: str
    """Name of the task the example belongs to."""
    id: str
    """Name of the pair within its task: the same in every epoch, run and machine."""


class Photos:
    """Tells the examples of one task apart by their photo, and chooses `most` to show: one of each photo first.

    Two examples are of one photo if they share a pair, the original's pixels or the edited image's: several edits of a
    photo, and several degradations.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0
        self._seen: list[set[Any]] = [set(), set(), set()]
        self._first: list[Any] = []
        self._again: list[Any] = []

    def see(self, example: EditExample, shown: Any = None) -> bool:
        """Count an example, and keep `shown` of it if it may be chosen; whether its photo is a new one."""
        marks = [example.id, *(hashlib.sha256(x.numpy().tobytes()).digest() for x in example[:2])]
        new = all(mark not in seen for mark, seen in zip(marks, self._seen, strict=True))
        for mark, seen in zip(marks, self._seen, strict=True):
            seen.add(mark)
        kept = self._first if new else self._again
        if len(kept) < self.most:
            kept.append(shown)
        self.count += new
        return new

    @property
    def chosen(self) -> list[Any]:
        """What was kept of the examples to show."""
        return (self._first + self._again)[: self.most]
