"""Prompts to text states by a frozen sentence encoder of transformers, then a projection, as InstructIR reads its
instructions (Conde et al. 2024)."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.pretrained import load_part
from ip2p_lightning.networks.projected_text import ProjectedText, padded
from ip2p_lightning.networks.text_encoder import TextEncoder, load_tokenizer


class SentenceText(ProjectedText):
    """A frozen sentence encoder and a learned linear map of its states; `reader` is in no checkpoint.

    Args:
        path: a folder in sentence-transformers' or transformers' layout, or a hub id.
        width, length, trainable, seed: see `ProjectedText`.
        revision: branch, tag or commit of a hub repository.
        subfolder: where the weights are in `path`; None = at its top.

    Raises:
        UserError: no weights there, an encoder of another kind, or sizes that do not fit.
        DamagedError: weights or tokenizer are incomplete, or do not belong together.
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
        self.reader = SentenceStates(path, length, revision, subfolder)
        super().__init__(self.reader.width, width, self.reader.length, trainable, seed)

    def count(self, prompt: str) -> int:
        """Tokens of a prompt, start and end included, and their mean, before truncation."""
        return self.reader.count(prompt)

    def features(self, prompt: str) -> Tensor:  # -> [L T]
        """The encoder's states of the tokens, then their mean up to the length."""
        return self.reader.encode([prompt])[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move in place, the frozen encoder too."""
        self.reader.to(device, dtype)
        return super().to(device, dtype)


class SentenceStates(TextEncoder):
    """The last states of a frozen encoder, then their mean up to the length; in units in which the mean has a mean
    square of 1, as sentence embeddings are compared by their direction."""

    def __init__(self, path: str, length: int, revision: str | None, subfolder: str | None) -> None:
        from transformers import AutoModel, AutoTokenizer

        options: dict[str, Any] = {"revision": revision} if revision else {}
        options["trust_remote_code"] = False  # else transformers asks on the terminal whether to run a hub's own code
        model = load_part(AutoModel, path, subfolder, **options)
        if model.config.is_encoder_decoder or not hasattr(model.config, "vocab_size"):
            kind = type(model).__name__
            raise UserError(f"text_encoder.path={path} is a {kind}: give a text encoder such as all-MiniLM-L6-v2")
        self.tokenizer = load_tokenizer(AutoTokenizer, path, subfolder, model.config.vocab_size, **options)
        longest = min(self.tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", length))
        super().__init__(model, model.config.hidden_size, min(length, longest + 1), trainable=False)

    def count(self, prompt: str) -> int:
        """Tokens of a prompt, start and end included, and their mean, before truncation."""
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids) + 1

    def _states(self, prompts: list[str]) -> Tensor:  # [B L T]
        return torch.stack([self._read(prompt) for prompt in prompts])

    def _read(self, prompt: str) -> Tensor:  # -> [L T]
        tokens = self.tokenizer(prompt, truncation=True, max_length=self.length - 1, return_tensors="pt")
        rows = self.model(**tokens.to(self._place()[0])).last_hidden_state[0]  # alone: there is no padding to mask
        mean = rows.mean(0)
        return padded(rows, mean, self.length) / mean.square().mean().sqrt().clamp(min=1e-6)
