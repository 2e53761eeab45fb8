"""The interface of sources of pairs, and of what makes one side of a pair from the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from ip2p_lightning.data.image import Image
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError, UserError, suggest
from ip2p_lightning.system.file_digests import Digests

Split = Literal["train", "val", "test"]
SPLITS: tuple[str, ...] = get_args(Split)


class EmptySplitError(DataError):
    """No pair for a split: a run goes without validation, an evaluation is refused."""


class Maker(Protocol):
    """A degradation or a teacher: one side of a pair from the other.

    The class attribute ``makes`` says which: "original" (a degradation, the default) or "edited" (a teacher).
    """

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """``[H W 3]`` float32 in [0, 1] to the same; a pure function of the two arguments."""


class Pairs(Protocol):
    """The pairs of one split."""

    def __len__(self) -> int: ...

    def id(self, i: int) -> str:
        """Name of pair `i`, unique within the split, the same on every machine."""

    def prompt(self, i: int) -> str | None:
        """The pair's own instruction; None where the task's pool is to be drawn from."""

    def pair(self, i: int, rng: np.random.Generator, view: View) -> tuple[Image, Image]:
        """``(original, edited)`` as `view` shows them, float32 in [0, 1] or uint8; a pure function of the arguments.

        Raises DataError: a file cannot be read, or the two sizes differ.
        """

    def sources(self, i: int) -> tuple[Path | bytes, ...]:
        """The files, or the encoded images, that pair `i` is made from: what a cache goes by."""

    def contents(self, digests: Digests) -> dict[str, str]:
        """Hash of everything the pairs are made from, by name: equal only where all pairs are equal."""


class Source(Protocol):
    """Where pairs come from."""

    def pairs(self, split: Split, make: Maker | None = None) -> Pairs:
        """The pairs of a split; `make` is called by sources that hold one side only, and ignored by the others.

        Raises EmptySplitError: no pair for this split; DataError: nothing there, or unmatched images; UserError: no
        such source, or `make` is missing.
        """


def makes(make: Maker) -> Literal["original", "edited"]:
    """Which side of a pair `make` returns."""
    return getattr(make, "makes", "original")


def checked_split(split: str) -> Split:
    """`split`, or a `UserError` if there is no such split."""
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}'{suggest(split, SPLITS) or ': train, val or test'}")
    return split  # type: ignore[return-value]


def viewed_pair(images: Sequence[np.ndarray], name: str, rng: np.random.Generator, view: View) -> tuple[Image, Image]:
    """Both images under one geometry, never stretched to fit; `DataError` with `name` if they differ in size."""
    try:
        original, edited = view(images, rng)
    except DataError as error:
        raise DataError(f"{name}: {error}; crop or resize them yourself, or remove the pair") from None
    return original, edited
