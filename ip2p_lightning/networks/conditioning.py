"""What the net is shown of an example, and how it is hidden at random so that guidance can be used later.

Shapes: B batch, C latent channels, h w latent size, L tokens, D text width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ip2p_lightning.errors import UserError


class Condition(NamedTuple):
    """The image latents (the unscaled mode of the original) and the text states."""

    image: Tensor  # [B C h w]
    text: Tensor  # [B L D]


class Conditioner:
    """Builds conditions, and drops parts of them in training (Brooks et al. 2023, section 3.2.1).

    `p` in [0, 1/3]: with one uniform number per sample, [0, p) loses the text, [p, 2p) both, [2p, 3p) the image; None
    or 0 switches it off. The null text is the encoded empty prompt; the null image is zero AFTER encoding, never the
    encoding of a black image. `drop_image` False, for a bridge, keeps the image always (it is the start of the path):
    then the text alone is lost, still in [0, 2p). Raises UserError for `p` out of range.
    """

    def __init__(self, text_encoder: Any, p: float | None = 0.05, drop_image: bool = True) -> None:
        if p is not None and not 0 <= p <= 1 / 3:
            raise UserError(f"conditioner.p must lie in [0, 1/3] (three regions of width p), got {p}")
        self.text_encoder, self.p, self.drop_image = text_encoder, p or 0.0, drop_image

    def encode(self, image_latents: Tensor, prompts: list[str]) -> Condition:  # [B C h w], B strings
        """The latents as they are, and the encoded prompts on the latents' device."""
        if len(prompts) != len(image_latents):
            raise UserError(f"{len(image_latents)} images but {len(prompts)} prompts")
        return Condition(image_latents, self.text_encoder.encode(prompts).to(image_latents.device))

    def null(self, condition: Condition) -> Condition:
        """The empty condition in the shape of `condition`: zeros, and the empty prompt."""
        text = self.text_encoder.encode([""]).to(condition.text)
        return Condition(torch.zeros_like(condition.image), text.expand_as(condition.text))

    def drop(self, condition: Condition, u: Tensor) -> Condition:  # u [B], uniform in [0, 1)
        """Text dropped iff u < 2p, image dropped iff p <= u < 3p: diffusers' borders, ``train_instruct_pix2pix.py``."""
        if self.p == 0:
            return condition
        u, p, null = u.to(condition.image.device), self.p, self.null(condition)
        text = torch.where((u < 2 * p).view(-1, 1, 1), null.text, condition.text)
        if not self.drop_image:
            return Condition(condition.image, text)
        image_lost = ((u >= p) & (u < 3 * p)).view(-1, 1, 1, 1)
        return Condition(torch.where(image_lost, null.image, condition.image), text)
