"""How long a prompt is for a text encoder."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from ip2p_lightning.errors import UserError

MOST = 77  # tokens that CLIP reads, start and end included
_PIECE = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+", re.IGNORECASE)  # CLIP's own first cut


def counter(tokenizer: str | None) -> tuple[str, Callable[[str], int]]:
    """A description of the count, and the function. Raises UserError if the tokenizer cannot be loaded.

    Without a tokenizer the count is an estimate: words and signs as CLIP first cuts them, and one more for every 6
    letters beyond the first 9 of a word (short words are one token each in CLIP's vocabulary).
    """
    if tokenizer is None:
        return "estimated, without a tokenizer", lru_cache(1 << 16)(_estimate)
    from transformers import AutoTokenizer

    try:
        known = AutoTokenizer.from_pretrained(tokenizer)
    except Exception as error:  # the hub's client, tokenizers and json each have their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"tokenizer={tokenizer}: cannot be loaded: {reason}; give a folder, or null") from None
    return "by the tokenizer given", lru_cache(1 << 16)(lambda prompt: len(known(prompt)["input_ids"]))


def _estimate(prompt: str) -> int:
    return 2 + sum(1 + max(0, len(piece) - 4) // 6 if len(piece) > 9 else 1 for piece in _PIECE.findall(prompt))
