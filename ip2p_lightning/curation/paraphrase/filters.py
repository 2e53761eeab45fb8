"""Filters for generated prompts: length, duplicates, and relevance to the task."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import UserError

Test = Callable[[str], bool]

_BULLET = re.compile(r"^\s*(?:[-*•–—]|\(?\d{1,3}[.):]|[a-z][.)])\s+", re.IGNORECASE)
_QUOTES = "\"'“”‘’«»`"


def sentences(text: str) -> list[str]:
    """The lines of a reply without bullets, numbers and quotation marks; empty ones and headings ("Sure:") left out."""
    lines = (_BULLET.sub("", line).strip().strip(_QUOTES).strip() for line in text.splitlines())
    return [line for line in lines if line and not line.endswith(":")]


@dataclass
class Filter:
    """Takes sentences one by one; `reasons` counts the rejected ones.

    count: CLIP tokens of a sentence, start and end included (or an estimate).
    keeps: whether a sentence still asks for the task.
    unseen: sentences of the shared held-out part; near-duplicates of them must not be trained on.
    near: Jaccard similarity of letter trigrams, in (0, 1], from which two sentences are near-duplicates.
    """

    count: Callable[[str], int]
    keeps: Test
    unseen: Sequence[str] = ()
    near: float = 0.8
    max_tokens: int = 77
    min_words: int = 2
    kept: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._held_out = [_trigrams(s) for s in self.unseen]
        self._keys: set[str] = set()
        self._own: list[frozenset[str]] = []

    def offer(self, sentence: str) -> bool:
        """Keep `sentence` (in NFC) or count why not."""
        sentence = unicodedata.normalize("NFC", sentence).strip()
        key, trigrams = _key(sentence), _trigrams(sentence)
        checks: Iterable[tuple[str, Callable[[], bool]]] = (
            ("not a sentence", lambda: not _readable(sentence)),
            ("too short", lambda: len(sentence.split()) < self.min_words),
            ("too long", lambda: self.count(sentence) > self.max_tokens),
            ("another meaning", lambda: not self.keeps(sentence)),
            ("duplicate", lambda: key in self._keys),
            ("near-duplicate", lambda: self._is_near(trigrams, self._own)),
            ("shared held-out prompt", lambda: self._is_near(trigrams, self._held_out)),
        )
        reason = next((reason for reason, fails in checks if fails()), None)
        if reason:
            self.reasons[reason] += 1
            return False
        self.kept.append(sentence)
        self._keys.add(key)
        self._own.append(trigrams)
        return True

    def _is_near(self, trigrams: frozenset[str], others: Iterable[frozenset[str]]) -> bool:
        return any(len(trigrams & other) >= self.near * max(len(trigrams | other), 1) for other in others)


def split(prompts: Sequence[str], held_out: int, rank: Callable[[str], int]) -> tuple[list[str], list[str]]:
    """``(train, held out)``, both in their original order; which are held out depends on each sentence alone.

    rank: a number per sentence; the `held_out` smallest are held out, so that a larger pool moves few across.
    """
    chosen = set(sorted(prompts, key=lambda p: (rank(_key(p)), p))[:held_out])
    return [p for p in prompts if p not in chosen], [p for p in prompts if p in chosen]


def keyword_test(keywords: Sequence[str]) -> Test:
    """Whether a sentence has a word that begins with one of `keywords`, in any case."""
    if not any(word.strip() for word in keywords):
        raise UserError("no keywords for this task; give keywords=WORD,WORD, or encoder=DIR")
    stems = "|".join(re.escape(word.strip()) for word in keywords if word.strip())
    pattern = re.compile(rf"\b(?:un|de|over|under|photo)?(?:{stems})", re.IGNORECASE)
    return lambda sentence: pattern.search(sentence) is not None


def embedding_test(folder: str, about: str, least: float) -> Test:
    """Whether a sentence's CLIP text embedding has a cosine of at least `least` with that of `about`.

    folder: in diffusers' layout, ``tokenizer/`` and ``text_encoder/``. Raises UserError.
    """
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer: Any = CLIPTokenizer.from_pretrained(str(_part(folder, "tokenizer")))
        model: Any = CLIPTextModel.from_pretrained(str(_part(folder, "text_encoder"))).eval()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"encoder={folder}: {reason}") from error
    length = min(tokenizer.model_max_length, model.config.max_position_embeddings)

    def embed(sentence: str) -> Any:
        tokens = tokenizer(sentence, truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            return model(**tokens).pooler_output[0]

    target = embed(about)
    return lambda sentence: float(torch.cosine_similarity(embed(sentence), target, dim=0)) >= least


def _part(folder: str, name: str) -> Path:
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder with {name}/ in diffusers' layout")
    return place / name if (place / name).is_dir() else place


def _readable(sentence: str) -> bool:
    """Words rather than symbols: mostly letters, nothing unprintable, no run of strange characters."""
    letters = sum(c.isalpha() or c.isspace() for c in sentence)
    return sentence.isprintable() and "\N{REPLACEMENT CHARACTER}" not in sentence and letters >= 0.8 * len(sentence)


def _key(sentence: str) -> str:
    """Equal for sentences that differ in case, spacing and punctuation only."""
    return " ".join(re.findall(r"\w+", sentence.casefold()))


def _trigrams(sentence: str) -> frozenset[str]:
    text = f"  {_key(sentence)} "
    return frozenset(text[i : i + 3] for i in range(len(text) - 2))
