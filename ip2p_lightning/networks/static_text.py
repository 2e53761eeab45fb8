"""Prompts to text states by a static table: one vector a token, distilled from a sentence encoder, then a projection.

The table knows words that no training prompt holds: they lie near those that mean the same. A misspelt word falls into
pieces of words, so that its sentence loses one word and keeps the others.

Shapes: B batch, L tokens, T width of the table, D text width, n tokens of a prompt.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.networks.text_encoder import TextEncoder
from ip2p_lightning.rng import seed_of


class StaticText(TextEncoder):
    """A frozen table of token vectors and a learned linear map of them.

    The states are the tokens of a prompt, and behind them, up to the length, the tokens' mean again and again: what a
    net finds that attends to all places alike is the mean, from which a linear model tells tasks apart. The null text
    is zero. Each prompt is read by itself: neither its neighbours nor the number of threads change a bit.

    The table is no parameter, is in no checkpoint and stays on the CPU. Its integers add up exactly: the mean is the
    same on any processor and in any order of the words.

    Args:
        path: a folder with table.safetensors and tokenizer.json; None = the table in the package.
        width: D.
        length: L, states of a padded or cut prompt, of which one at least is the mean.
        trainable: False freezes the random projection.
        seed: of the projection; torch's global generator is left as it was.

    Raises:
        UserError: no table there, or sizes that do not fit.
        DamagedError: table or tokenizer cannot be read, or do not belong together.
    """

    def __init__(
        self, path: str | None = None, width: int = 64, length: int = 64, trainable: bool = True, seed: int = 0
    ) -> None:
        if width < 1 or length < 2:
            raise UserError(f"text_encoder: width={width} must be at least 1 and length={length} at least 2")
        self.tokenizer, self.table, self.scale = read_table(path)
        self.model = _projection(self.table.shape[1], width, seed).requires_grad_(trainable)
        self.width, self.length, self.trainable = width, length, trainable
        self._memory: dict[str, Tensor] = {}
        self._measured: set[str] = set()

    def count(self, prompt: str) -> int:
        """Tokens of a prompt and their mean, before truncation."""
        return len(self._ids(prompt)) + 1

    def features(self, prompt: str) -> Tensor:  # -> [L T]
        """What the projection is given: the tokens' vectors, then their mean up to the length."""
        ids = torch.tensor(self._ids(prompt)[: self.length - 1], dtype=torch.long)
        rows = self.table[ids].double()
        mean = rows.sum(0) / max(1, len(ids))
        return (torch.cat([rows, mean.expand(self.length - len(ids), -1)]) * self.scale).float()

    def _ids(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt, add_special_tokens=False).ids

    def _states(self, prompts: list[str]) -> Tensor:  # [B L D]
        for prompt in prompts:
            self._warn_if_cut(prompt)
        device, dtype = self._place()
        features = torch.stack([self.features(prompt) for prompt in prompts])
        features = features.to(device, dtype, non_blocking=True)  # else each call would wait for the GPU
        return torch.stack([self.model(one) for one in features])  # a product's last bits may vary with its size


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


def _projection(table_width: int, width: int, seed: int) -> nn.Linear:
    """No bias, so that the null text stays zero; weights that keep a vector's mean square."""
    linear = nn.utils.skip_init(nn.Linear, table_width, width, bias=False)
    generator = torch.Generator().manual_seed(seed_of("static text", seed))
    nn.init.normal_(linear.weight, std=table_width**-0.5, generator=generator)
    return linear
