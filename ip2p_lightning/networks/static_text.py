"""Prompts to text states by a static table: one vector a token, distilled from a sentence encoder, then a projection.

The table knows words that no training prompt holds: they lie near those that mean the same. A misspelt word falls into
pieces of words, so that its sentence loses one word and keeps the others.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.networks.projected_text import ProjectedText, padded


class StaticText(ProjectedText):
    """A frozen table of token vectors and a learned linear map of them. The null text is zero.

    The table is no parameter, is in no checkpoint and stays on the CPU. Its integers add up exactly: the mean is the
    same on any processor and in any order of the words.

    Args:
        table: a folder with table.safetensors and tokenizer.json; None = the table in the package.
        width, length, trainable, seed: see `ProjectedText`.

    Raises:
        UserError: no table there, or sizes that do not fit.
        DamagedError: table or tokenizer cannot be read, or do not belong together.
    """

    def __init__(
        self, table: str | None = None, width: int = 64, length: int = 64, trainable: bool = True, seed: int = 0
    ) -> None:
        self.tokenizer, self.table, self.scale = read_table(table)
        super().__init__(len(self.scale), width, length, trainable, seed)

    def count(self, prompt: str) -> int:
        """Tokens of a prompt and their mean, before truncation."""
        return len(self._ids(prompt)) + 1

    def features(self, prompt: str) -> Tensor:  # -> [L T]
        """The tokens' vectors, then their mean up to the length."""
        ids = torch.tensor(self._ids(prompt)[: self.length - 1], dtype=torch.long)
        rows = self.table[ids].double()
        return (padded(rows, rows.sum(0) / max(1, len(ids)), self.length) * self.scale).float()

    def _ids(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt, add_special_tokens=False).ids


def read_table(path: str | None = None) -> tuple[Any, Tensor, Tensor]:  # -> tokenizer, int8 [V T], its scale [T]
    """The tokenizer and the table of a folder; None = those in the package. Raises UserError, DamagedError."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    shipped = importlib.resources.files("ip2p_lightning") / "builtin" / "token_table"
    folder = Path(str(shipped if path is None else path)).expanduser()
    files = folder / "tokenizer.json", folder / "table.safetensors"
    if absent := [file for file in files if not file.is_file()]:
        raise UserError(f"text_encoder: no token table at {folder}: {absent[0].name} is missing")
    try:
        tokenizer, stored = Tokenizer.from_file(str(files[0])), load_file(files[1])
        table, scale = stored["table"], stored["scale"]
    except Exception as error:  # tokenizers raises Exception itself, safetensors a class of its own
        raise DamagedError(f"cannot read the token table in {folder}: {error}") from error
    if table.shape != (tokenizer.get_vocab_size(), len(scale)):
        raise DamagedError(f"{folder}: {tokenizer.get_vocab_size()} tokens, but a table of shape {tuple(table.shape)}")
    return tokenizer, table, scale
