"""Text states by a learned linear map of frozen features: from a table of token vectors, or from a sentence encoder.

Shapes: B batch, L states, T width of the features, D text width, V vocabulary, n tokens of a prompt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.networks.pretrained import load_part
from ip2p_lightning.networks.text_encoder import TextEncoder, load_tokenizer
from ip2p_lightning.rng import seed_of

SHIPPED = Path(__file__).parents[1] / "builtin" / "token_table"


class ProjectedText(TextEncoder):
    """Features of the tokens, and behind them, up to the length, the tokens' mean again and again.

    What a net finds that attends to all places alike is the mean, from which a linear model tells tasks apart. Each
    prompt is read by itself, so that its neighbours change no bit. Only the map is `model`, which a checkpoint stores.

    Args:
        width: D. length: L, of which one state at least is the mean.
        trainable: False freezes the random map.
        seed: of the map; torch's global generator is left as it was.

    Raises:
        UserError: sizes that do not fit, or nothing to read the features from.
        DamagedError: what is there cannot be read, or its files do not belong together.
    """

    def __init__(self, features_width: int, width: int, length: int, trainable: bool, seed: int) -> None:
        if width < 1 or length < 2:
            raise UserError(f"text_encoder: width={width} must be at least 1 and length={length} at least 2")
        linear = nn.utils.skip_init(nn.Linear, features_width, width, bias=False)  # what is zero stays zero
        generator = torch.Generator().manual_seed(seed_of("projected text", seed))
        nn.init.normal_(linear.weight, std=features_width**-0.5, generator=generator)  # keeps a vector's mean square
        super().__init__(linear, width, length, trainable)

    @abstractmethod
    def features(self, prompt: str) -> Tensor:  # -> [n+1 T] float32
        """What the map is given: the tokens, then their mean."""

    def _states(self, prompts: list[str]) -> Tensor:  # [B L D]
        return torch.stack([self._state(prompt) for prompt in prompts])

    def _state(self, prompt: str) -> Tensor:  # [L D]
        self._warn_if_cut(prompt)
        rows = self.features(prompt).to(*self._place(), non_blocking=True)  # else each call would wait for the GPU
        # one size for all prompts: of other sizes, the product's last bits would vary with the number of threads
        return self.model(torch.cat([rows, rows[-1:].expand(self.length - len(rows), -1)]))


class StaticText(ProjectedText):
    """One vector a token from a table, distilled from a sentence encoder; it is no parameter and stays on the CPU.

    The table knows words that no training prompt holds: they lie near those that mean the same. A misspelt word falls
    into pieces, so that its sentence loses one word and keeps the others. Its integers add up exactly: the mean is the
    same on any processor and in any order of the words. The null text is zero.

    `table`: a folder with table.safetensors and tokenizer.json; None = the one in the package.
    """

    def __init__(
        self, table: str | None = None, width: int = 64, length: int = 64, trainable: bool = True, seed: int = 0
    ) -> None:
        self.tokenizer, self.table, self.scale = read_table(table)
        super().__init__(len(self.scale), width, length, trainable, seed)

    def count(self, prompt: str) -> int:
        """Tokens of a prompt and their mean, before truncation."""
        return len(self._ids(prompt)) + 1

    def features(self, prompt: str) -> Tensor:  # -> [n+1 T]
        ids = torch.tensor(self._ids(prompt)[: self.length - 1], dtype=torch.long)
        rows = self.table[ids].double()
        return (torch.cat([rows, rows.sum(0, keepdim=True) / max(1, len(ids))]) * self.scale).float()

    def likeness(self, prompts: Sequence[str], others: Sequence[str]) -> list[float]:
        """For each prompt the cosine between the mean of its tokens and that of the most similar one of `others`."""
        mine, theirs = (torch.stack([self.features(text)[-1] for text in texts]) for texts in (prompts, others))
        similar = nn.functional.normalize(mine, dim=1) @ nn.functional.normalize(theirs, dim=1).T
        return similar.amax(1).tolist()

    def _ids(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt, add_special_tokens=False).ids


class SentenceText(ProjectedText):
    """The states of a frozen encoder of transformers, as InstructIR reads its instructions (Conde et al. 2024).

    `path`: a folder in transformers' or sentence-transformers' layout, or a hub id; then `subfolder`: where in it the
    weights are; `revision`: branch, tag or commit of a hub repository.
    """

    def __init__(
        self,
        path: str,
        width: int = 64,
        length: int = 64,
        trainable: bool = True,
        seed: int = 0,
        revision: str | None = None,
        subfolder: str | None = None,
    ) -> None:
        self.reader = SentenceStates(path, length, revision, subfolder)  # in no checkpoint
        super().__init__(self.reader.width, width, self.reader.length, trainable, seed)

    def count(self, prompt: str) -> int:
        return self.reader.count(prompt)

    def features(self, prompt: str) -> Tensor:  # -> [n+1 T]
        return self.reader.encode([prompt])[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.reader.to(device, dtype)
        return super().to(device, dtype)


class SentenceStates(TextEncoder):
    """An encoder's last states and their mean, in units in which the mean has a mean square of 1: sentence embeddings
    are compared by their direction. Frozen, so that states are remembered per string."""

    def __init__(self, path: str, length: int, revision: str | None, subfolder: str | None) -> None:
        from transformers import AutoModel, AutoTokenizer

        options: dict[str, Any] = {"revision": revision} if revision else {}
        options["trust_remote_code"] = False  # else transformers asks on the terminal whether to run a hub's own code
        model = load_part(AutoModel, path, subfolder, **options)
        if model.config.is_encoder_decoder or not hasattr(model.config, "vocab_size"):
            raise UserError(f"{path} is a {type(model).__name__}: give a text encoder such as all-MiniLM-L6-v2")
        self.tokenizer = load_tokenizer(AutoTokenizer, path, subfolder, model.config.vocab_size, **options)
        longest = min(self.tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", length))
        super().__init__(model, model.config.hidden_size, min(length, longest + 1), trainable=False)

    def count(self, prompt: str) -> int:
        """Tokens of a prompt, start and end included, and their mean, before truncation."""
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids) + 1

    def _states(self, prompts: list[str]) -> Tensor:  # [1 n+1 T]: alone, so that there is no padding to mask
        [prompt] = prompts
        tokens = self.tokenizer(prompt, truncation=True, max_length=self.length - 1, return_tensors="pt")
        rows = self.model(**tokens.to(self._place()[0])).last_hidden_state[0]
        mean = rows.mean(0, keepdim=True)
        return (torch.cat([rows, mean]) / mean.square().mean().sqrt().clamp(min=1e-6))[None]


def read_table(path: str | None = None) -> tuple[Any, Tensor, Tensor]:  # -> tokenizer, int8 [V T], its scale [T]
    """The tokenizer and the table of a folder; None = those in the package. Raises UserError, DamagedError."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    folder = SHIPPED if path is None else Path(path).expanduser()
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
