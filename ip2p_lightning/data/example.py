"""What one training or evaluation example is."""

from __future__ import annotations

from typing import NamedTuple

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
