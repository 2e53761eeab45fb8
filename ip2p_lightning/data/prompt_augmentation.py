"""Misspelt training prompts: for a text encoder that learns its words from nothing but the pools."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

STEM = 4  # letters that say what a word means: they stay
LOST = 3  # letters behind them that a word may lose, at most
ENDING = 4  # letters of an ending, at most


class Misspelling:
    """Gives words other endings, and puts invented ones between them.

    A text encoder that has read a few hundred sentences takes an unknown word, or a piece of one, for a sign of a task:
    "graininess" ends like "brightness". Where endings and unknown words come with every task, they mean nothing, and
    "noiseless" is read by its stem. In the spirit of EDA (Wei & Zou 2019, arXiv:1901.11196) and of BPE-dropout
    (Provilkov et al. 2020, arXiv:1910.13267), which vary words and their pieces.

    Args:
        prompts: where beginnings and endings are taken from: those of all tasks, or an ending would tell the task.
        share: probability of another ending for a word of at least four letters; half of it is that of an invented
            word before any word. 0 leaves every prompt as it is.
    """

    def __init__(self, prompts: Iterable[str], share: float) -> None:
        self.words = [word for prompt in prompts for word in prompt.casefold().split()]
        self.share = share

    def __call__(self, prompt: str, rng: np.random.Generator) -> str:
        """The prompt as somebody careless, or inventive, would have put it; a function of `rng`."""
        said: list[str] = []
        for word in prompt.split():
            if rng.random() < self.share / 2:
                said.append(self._word(rng)[: rng.integers(1, STEM)] + self._ending(rng))
            said.append(self._other_ending(word, rng) if len(word) >= STEM and rng.random() < self.share else word)
        return " ".join(said)

    def _other_ending(self, word: str, rng: np.random.Generator) -> str:
        kept = max(STEM, len(word) - int(rng.integers(0, LOST + 1)))
        return word[:kept] + self._ending(rng)

    def _ending(self, rng: np.random.Generator) -> str:
        """Of some word what stands behind its stem: never a stem itself, which would mean something."""
        beyond = self._word(rng)[STEM:]
        return beyond[max(0, len(beyond) - int(rng.integers(0, ENDING + 1))) :]

    def _word(self, rng: np.random.Generator) -> str:
        return self.words[int(rng.integers(len(self.words)))]
