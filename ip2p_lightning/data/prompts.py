"""The instructions of one task, and what one may need to know about them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from ip2p_lightning.errors import DataError, UserError

_SIDE = re.compile(r"\b(left|right)(most|wards?)?\b", re.IGNORECASE)
NO_INSTRUCTION = "there is no instruction; give 'task.prompts.prompts=[make it sepia]', or one for every pair"
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # controls (NUL, tab, newline), lone surrogates, line and paragraph separators


class PromptPool:
    """The instructions of one task: `prompts` to train on and `held_out` sentences that training never sees.

    A prompt is put into Unicode NFC and stripped of the white space around it, so that what looks the same is the same.
    A sentence may stand in `prompts` twice; it is then drawn twice as often.

    Args:
        prompts: training prompts, at least one; None: every pair carries its own.
        held_out: prompts for evaluation alone; none of them may be a training prompt (case and spacing ignored).
        limit: keep the first `limit` training prompts, for ablations over the size of a pool; None keeps all, and so
            does a number beyond the size.

    Raises:
        DataError: an empty pool, a prompt that is not text, is blank or holds control characters, or a held-out
            prompt that is also trained on (before `limit`).
        UserError: `limit` is not a positive integer.
    """

    def __init__(self, prompts: Sequence[str] | None, held_out: Sequence[str] = (), limit: int | None = None) -> None:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise UserError(f"prompts.limit={limit!r} is not a positive integer; give one, or null for the whole pool")
        train, self.held_out = _cleaned(() if prompts is None else prompts, "prompts"), _cleaned(held_out, "held_out")
        if not train and prompts is not None:
            raise DataError("prompt pool is empty (prompts=[]); list at least one prompt")
        _refuse_leak(train, self.held_out)
        self.prompts = train[:limit]

    @property
    def all(self) -> tuple[str, ...]:
        """Training prompts, then held-out ones."""
        return self.prompts + self.held_out

    def __len__(self) -> int:
        """Number of training prompts, after `limit`."""
        return len(self.prompts)

    def draw(self, rng: np.random.Generator, held_out: bool = False) -> str:
        """One prompt, uniform over the part: one integer of `rng`. Raises DataError without held-out prompts."""
        part = self._part(held_out)
        return part[int(rng.integers(len(part)))]

    def in_order(self, i: int, rng: np.random.Generator, held_out: bool = False) -> str:
        """Prompt `i`, modulo the size of the part, of the order that `rng` draws. Raises DataError as `draw` does."""
        part = self._part(held_out)
        return part[int(rng.permutation(len(part))[i % len(part)])]

    def _part(self, held_out: bool) -> tuple[str, ...]:
        if not held_out and not self.prompts:
            raise UserError(NO_INSTRUCTION)
        if held_out and not self.held_out:
            raise DataError(
                f"the pool of {len(self)} prompt(s), {_short(' | '.join(self.prompts))}, has no held-out prompts; "
                "list some under held_out, or evaluate with the training prompts"
            )
        return self.held_out if held_out else self.prompts


def token_report(
    pool: PromptPool | Sequence[str], count: Callable[[str], int], max_length: int = 77
) -> str | None:  # tokens incl. start and end
    """How many of a pool's prompts a text encoder would cut off, and the worst of them; None where all fit.

    Args:
        pool: a pool, both of whose parts are looked at, or prompts.
        count: tokens of a prompt, start and end included, before truncation (``TextEncoder.count``).
        max_length: tokens the encoder reads; 77 for CLIP.
    """
    prompts = pool.all if isinstance(pool, PromptPool) else tuple(pool)
    sizes = [count(prompt) for prompt in prompts]
    over = sum(size > max_length for size in sizes)
    if not over:
        return None
    worst = max(range(len(sizes)), key=sizes.__getitem__)
    return (
        f"{over} of {len(sizes)} prompts ({over / len(sizes):.0%}) exceed {max_length} tokens and lose their ends; "
        f"the longest has {sizes[worst]}: {_short(prompts[worst])}"
    )


def mentions_side(prompt: str) -> bool:
    """Whether a prompt speaks of left or right, so that mirroring its images would make it false.

    Whole words in any case, and leftmost, rightwards and the like; not "bright" or "leftover".
    """
    return _SIDE.search(prompt) is not None


def _cleaned(prompts: Sequence[str], where: str) -> tuple[str, ...]:
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Sequence):
        raise DataError(f"{where} is {type(prompts).__name__} {_short(prompts)}, not a list; write {where}: [...]")
    return tuple(cleaned_prompt(prompt, f"{where}[{i}]") for i, prompt in enumerate(prompts))


def cleaned_prompt(prompt: object, where: str) -> str:
    """A prompt as a pool would hold it. Raises DataError, which names `where`: see `PromptPool`."""
    if type(prompt) is str and prompt.isascii() and prompt.isprintable() and prompt.strip():
        return prompt.strip()
    if not isinstance(prompt, str):
        raise DataError(f"{where} is {type(prompt).__name__} {_short(prompt)}, not text; put it in quotes")
    text = unicodedata.normalize("NFC", prompt).strip()
    kinds = [unicodedata.category(char) for char in text]
    if all(kind[0] in "ZC" for kind in kinds) and not any(kind in _UNPRINTABLE for kind in kinds):
        raise DataError(f"{where} is blank ({_short(prompt)}); write a prompt or remove the entry")
    for char, kind in zip(text, kinds, strict=True):
        if kind in _UNPRINTABLE:
            raise DataError(f"{where} {_short(prompt)} holds the control character U+{ord(char):04X}; remove it")
    return text


def _refuse_leak(train: Sequence[str], held_out: Sequence[str]) -> None:
    """Text encoders lower-case and collapse spaces: sentences that differ in nothing else are one sentence."""
    seen = {_key(prompt): i for i, prompt in enumerate(train)}
    for i, prompt in enumerate(held_out):
        if _key(prompt) in seen:
            twin = seen[_key(prompt)]
            raise DataError(f"held_out[{i}] {_short(prompt)} is also prompts[{twin}]; remove it from one of the two")


def _key(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


def _short(value: object) -> str:
    """One printable ASCII line of at most 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
