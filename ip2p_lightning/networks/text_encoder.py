"""Prompts to text states: what all text encoders share; CLIP as Stable Diffusion 1.x uses it.

Shapes: B batch, L tokens, D text width.
"""

from __future__ import annotations

import copy
import os
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ip2p_lightning.errors import DamagedError, StorageError, UserError
from ip2p_lightning.networks.pretrained import load_part, missing

REMEMBERED = 1024  # states kept while frozen; 242 MB for CLIP ViT-L/14 in float32


class TextEncoder(ABC):
    """Prompts in, states out. A plain object, so that no state_dict, EMA or optimiser finds a frozen one.

    While frozen, states are remembered per string, computed one string at a time and outside autocast: what a prompt
    means then depends neither on its neighbours in the batch nor on what was encoded before a restart, to the last bit.
    Eight in one call have other last bits than each alone (measured on a CPU at CLIP's width: with two threads, and in
    bfloat16), and which of a batch are new depends on the restart.
    Where `trainable`, the LightningModule registers `model`, `encode` carries gradients, and nothing is remembered.
    """

    def __init__(self, model: nn.Module, width: int, length: int, trainable: bool) -> None:
        self.model, self.width, self.length, self.trainable = model, width, length, trainable
        self._memory: dict[str, Tensor] = {}  # least recently used first
        self._measured: set[str] = set()
        if not trainable:
            model.requires_grad_(False).eval()

    def encode(self, prompts: list[str]) -> Tensor:  # B strings -> [B L D]
        """Text states, float32, on the model's device; ``encode([""])`` is the null text.

        A prompt that is too long loses its end, and a warning says so once.
        """
        if isinstance(prompts, str):
            raise TypeError(f"encode takes a list of prompts, not one string: encode([{prompts!r}])")
        if self.trainable:
            return self._states(prompts)
        return torch.stack([self._remembered(prompt) for prompt in prompts]).float()

    @abstractmethod
    def count(self, prompt: str) -> int:
        """States of a prompt before padding and truncation; the last of them stands for all of it."""

    @abstractmethod
    def _states(self, prompts: list[str]) -> Tensor:  # [B L D]
        """The states of each prompt."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move in place. A trainable model keeps its dtype, which is its trainer's business."""
        before = self._place()
        self.model.to(device=device, dtype=None if self.trainable else dtype)
        if self._place() != before:
            self._memory.clear()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TextEncoder:
        """Itself while frozen; else a copy whose model is the one that the copied LightningModule registers."""
        if not self.trainable:
            return self
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.model = copy.deepcopy(self.model, memo)
        return twin

    def _place(self) -> tuple[torch.device, torch.dtype]:
        parameter = next(self.model.parameters())
        return parameter.device, parameter.dtype

    def _remembered(self, prompt: str) -> Tensor:  # [L D]
        state = self._memory.pop(prompt, None)
        if state is None:
            # Outside inference mode: a state first met in validation must serve the backward pass of training too.
            off = torch.autocast(self._place()[0].type, enabled=False)
            with torch.inference_mode(False), torch.no_grad(), off:
                state = self._states([prompt])[0]
        self._memory[prompt] = state
        if len(self._memory) > REMEMBERED:
            del self._memory[next(iter(self._memory))]
        return state

    def _warn_if_cut(self, prompt: str) -> None:
        if prompt in self._measured or len(prompt.encode()) + 3 <= self.length:  # a token is a byte at least
            return
        if len(self._measured) >= REMEMBERED:  # misspelt prompts are ever new ones
            self._measured.clear()
        self._measured.add(prompt)
        if (count := self.count(prompt)) > self.length:
            warnings.warn(f"prompt of {count} tokens loses all but {self.length}: {prompt[:60]!r}", stacklevel=1)


class ClipModel(TextEncoder):
    """A tokenizer and a CLIP text model.

    The last hidden state after the final layer norm, padded to L, and no attention mask over the padding: Stable
    Diffusion 1.x was trained so (diffusers, ``train_instruct_pix2pix.py``).
    """

    def __init__(self, tokenizer: Any, model: nn.Module, trainable: bool) -> None:
        config: Any = model.config
        length = min(tokenizer.model_max_length, config.max_position_embeddings)
        super().__init__(model, config.hidden_size, length, trainable)
        self.tokenizer = tokenizer

    def count(self, prompt: str) -> int:
        """Tokens of a prompt, start and end included, before truncation."""
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids)

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer/`` and ``text_encoder/`` in diffusers' layout; ``ClipText(folder)`` reads them back.

        Tensors bear the prefix ``text_model.``, and vocab.json and merges.txt are written, as before transformers 5:
        both sides of that border read such a folder. Raises StorageError.
        """
        from safetensors.torch import save_file

        model: Any = self.model
        config, tensors = copy.deepcopy(model.config), model.state_dict()
        config.architectures = ["CLIPTextModel"]
        words, weights = Path(folder) / "tokenizer", Path(folder) / "text_encoder"
        try:
            words.mkdir(parents=True, exist_ok=True)
            weights.mkdir(parents=True, exist_ok=True)
            self.tokenizer.save_pretrained(str(words))
            self.tokenizer.backend_tokenizer.model.save(str(words))
            config.save_pretrained(str(weights))
            named = {f"text_model.{k.removeprefix('text_model.')}": v.cpu().contiguous() for k, v in tensors.items()}
            save_file(named, weights / "model.safetensors", metadata={"format": "pt"})
        except OSError as error:
            raise StorageError(f"cannot write the text encoder to {folder}: {error.strerror or error}") from error

    def _states(self, prompts: list[str]) -> Tensor:  # [B L D]
        for prompt in prompts:
            self._warn_if_cut(prompt)
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        ids = tokens.input_ids.to(self._place()[0], non_blocking=True)  # else each call would wait for the GPU
        return self.model(ids)[0]


class ClipText(ClipModel):
    """The frozen CLIP of a Stable Diffusion 1.x checkpoint, from ``tokenizer/`` and ``text_encoder/``.

    Args:
        path: a folder in diffusers' layout, or a hub id.
        dtype: precision of weights and computation; the states come out in float32.
        revision: branch, tag or commit of a hub repository.
        variant: e.g. ``fp16`` where the weights are in ``model.fp16.safetensors``.

    Raises:
        UserError: no weights there; the line says how to fetch them.
        DamagedError: weights or tokenizer are incomplete, or do not belong together.
    """

    def __init__(
        self,
        path: str,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        revision: str | None = None,
        variant: str | None = None,
    ) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer

        chosen = {"revision": revision} if revision else {}
        named = {"variant": variant} if variant else {}
        # The weights first: where there are none, one failure is enough.
        model = load_part(CLIPTextModel, path, "text_encoder", **chosen, **named)
        tokenizer = load_tokenizer(CLIPTokenizer, path, "tokenizer", model.config.vocab_size, **chosen)
        super().__init__(tokenizer, model, trainable=False)
        self.to(dtype=getattr(torch, dtype))


def load_tokenizer(cls: Any, path: str, subfolder: str | None, vocab_size: int, **options: Any) -> Any:
    """The tokenizer of a checkpoint, held against the rows of its text model's embedding."""
    _calm_tokenizers()
    place = Path(path).expanduser()
    options |= {"subfolder": subfolder} if subfolder else {}
    try:
        tokenizer = cls.from_pretrained(str(place) if place.is_dir() else path, **options)
    except Exception as error:  # network, hub, I/O and format errors come as a dozen unrelated classes
        raise UserError(missing(path, subfolder, "tokenizer")) from error
    # Without vocabulary files, transformers 5 makes a tokenizer that knows nothing but start and end, silently.
    if not len(set(tokenizer.all_special_tokens)) < len(tokenizer) <= vocab_size:
        raise DamagedError(
            f"{path}: tokenizer has {len(tokenizer)} tokens, text_encoder {vocab_size}; fetch the tokenizer's files"
        )
    return tokenizer


def _calm_tokenizers() -> None:
    """Prompts are short: threads gain nothing, and a warning at each fork of a data loader is the price."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
