"""Text states that are frozen features of a prompt under a learned linear map.

Shapes: B batch, L tokens, T width of the features, D text width, n tokens of a prompt.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.text_encoder import TextEncoder
from ip2p_lightning.rng import seed_of


class ProjectedText(TextEncoder):
    """Features of the tokens, and behind them, up to the length, the tokens' mean again and again.

    What a net finds that attends to all places alike is the mean, from which a linear model tells tasks apart. Each
    prompt is read by itself, so that its neighbours change no bit. Only the map is `model`, which a checkpoint stores.

    Args:
        features_width: T.
        width: D.
        length: L, states of a padded or cut prompt, of which one at least is the mean.
        trainable: False freezes the random map.
        seed: of the map; torch's global generator is left as it was.

    Raises:
        UserError: sizes that do not fit.
    """

    def __init__(self, features_width: int, width: int, length: int, trainable: bool, seed: int) -> None:
        if width < 1 or length < 2:
            raise UserError(f"text_encoder: width={width} must be at least 1 and length={length} at least 2")
        super().__init__(_projection(features_width, width, seed), width, length, trainable)

    @abstractmethod
    def features(self, prompt: str) -> Tensor:  # -> [L T] float32
        """What the map is given."""

    def _states(self, prompts: list[str]) -> Tensor:  # [B L D]
        for prompt in prompts:
            self._warn_if_cut(prompt)
        features = torch.stack([self.features(prompt) for prompt in prompts])
        features = features.to(*self._place(), non_blocking=True)  # else each call would wait for the GPU
        return torch.stack([self.model(one) for one in features])  # a product's last bits may vary with its size


def padded(rows: Tensor, mean: Tensor, length: int) -> Tensor:  # [n T], [T] -> [L T]
    """The tokens, then their mean up to the length."""
    return torch.cat([rows, mean.expand(length - len(rows), -1)])


def _projection(features_width: int, width: int, seed: int) -> nn.Linear:
    """No bias, so that zero stays zero; weights that keep a vector's mean square."""
    linear = nn.utils.skip_init(nn.Linear, features_width, width, bias=False)
    generator = torch.Generator().manual_seed(seed_of("projected text", seed))
    nn.init.normal_(linear.weight, std=features_width**-0.5, generator=generator)
    return linear
