"""Small text-conditioned U-Net on pixels, used by ``model=tiny``; called like diffusers' ``UNet2DConditionModel``.

Without normalisation layers, which would remove a picture's brightness; global means are fed back instead.

Shapes: B batch, C channels of a level, h w latent size, L tokens, D text width, E width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ip2p_lightning.errors import UserError


@dataclass
class PixelEditorOutput(BaseOutput):
    """sample: [B C_out h w], what the network predicts."""

    sample: Tensor


class InstructionEmbedding(nn.Module):
    """Time and instruction as one vector: learned queries read the tokens by attention (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, text_width: int, width: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, text_width) * text_width**-0.5)
        self.key = nn.Linear(text_width, text_width)
        self.value = nn.Linear(text_width, text_width)
        self.text = nn.Linear(queries * text_width, width)
        self.frequencies = Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(64, width)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, timestep: Tensor, text: Tensor) -> Tensor:  # [B], [B L D] -> [B E]
        queries = self.queries.expand(len(text), -1, -1)
        read = F.scaled_dot_product_attention(queries, self.key(text), self.value(text))
        return self.mix(self.text(read.flatten(1)) + self.time(self.frequencies(timestep).to(text.dtype)))


class EditBlock(nn.Module):
    """Residual block, scaled and shifted by the embedding, its channels weighed by their mean over the picture.

    Scale and shift: FiLM (Perez et al. 2018, eq. 2). Channel attention: NAFNet's (Chen et al. 2022, eq. 6), through a
    sigmoid as in SENet (Hu et al. 2018): with products alone and no normalisation, training diverged.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.film = nn.Linear(embedding, 2 * channels)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = nn.Conv2d(channels, channels, 1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        self.residual_scale = nn.Parameter(torch.full((channels, 1, 1), 0.2))  # starts near the identity
        nn.init.normal_(self.film.weight, std=0.02)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # [B C h w], [B E] -> [B C h w]
        scale, shift = self.film(embedding)[..., None, None].chunk(2, dim=1)
        hidden = F.gelu(self.inner(x * (1 + scale) + shift))
        hidden = hidden * (2 * torch.sigmoid(self.attention(hidden.mean((2, 3), keepdim=True))))
        return x + self.residual_scale * self.outer(hidden)


class Tone(nn.Module):
    """Gain and offset per channel, from the means of the deepest features: the exposure of a whole picture, which a
    residual of convolutions learns slowly. Starts at exactly 0."""

    def __init__(self, features: int, embedding: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(features + embedding, 2 * channels)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, features: Tensor, embedding: Tensor, original: Tensor) -> Tensor:  # -> like original
        means = torch.cat([features.mean((2, 3)), embedding], dim=1)
        gain, offset = self.affine(means)[..., None, None].chunk(2, dim=1)
        return gain * (original + 1) + offset  # + 1: latents in [-1, 1] are black at -1, where a gain should do nothing


class PixelEditor(ModelMixin, ConfigMixin):
    """U-shape of residual blocks over latents of a pixel-unshuffle codec, conditioned on time and instruction.

    in_channels: channels of `sample`, of which the last `out_channels` are the original's. At initialisation the output
    is exactly 0, so that a bridge begins as the identity. cross_attention_dim: D, the text encoder's width.
    widths: channels per level, each at half the size of the one before. encoder_blocks: blocks per level on the way
    down; decoder_blocks: on the way up, one number fewer. embedding_dim: E. queries: attention queries on the text.
    Raises `UserError` when these lists do not fit together.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ("EditBlock",)  # what regional compilation compiles

    @register_to_config
    def __init__(
        self,
        in_channels: int = 24,
        out_channels: int = 12,
        cross_attention_dim: int = 64,
        widths: Sequence[int] = (32, 64, 96),
        encoder_blocks: Sequence[int] = (1, 2, 3),
        decoder_blocks: Sequence[int] = (1, 2),
        embedding_dim: int = 128,
        queries: int = 4,
    ) -> None:
        super().__init__()
        if not len(widths) == len(encoder_blocks) == len(decoder_blocks) + 1:
            raise UserError(
                f"PixelEditor: {len(widths)} widths need as many encoder_blocks and one decoder_blocks fewer, "
                f"got {len(encoder_blocks)} and {len(decoder_blocks)}"
            )
        self.gradient_checkpointing = False
        self.embedding = InstructionEmbedding(cross_attention_dim, embedding_dim, queries)
        self.entry = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        steps = list(pairwise(widths))
        self.encoder = nn.ModuleList(self._level(w, n) for w, n in zip(widths, encoder_blocks, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in steps)  # then a pixel shuffle
        self.decoder = nn.ModuleList(self._level(w, n) for w, n in zip(widths, decoder_blocks, strict=False))
        self.tone = Tone(widths[-1], embedding_dim, out_channels)
        self.exit = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def forward(
        self,
        sample: Tensor,  # [B C_in h w]
        timestep: Tensor | float,  # [B] or a scalar, in [0, 1000]
        encoder_hidden_states: Tensor,  # [B L D]
        return_dict: bool = True,
    ) -> PixelEditorOutput | tuple[Tensor]:
        """`.sample` [B C_out h w], or a tuple of it; any h and w."""
        time = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.embedding(time, encoder_hidden_states)
        height, width = sample.shape[-2:]
        step = 2 ** len(self.down)  # sizes that halve at every level
        padded = F.pad(sample, (0, -width % step, 0, -height % step), mode="replicate")
        out = self._edit(padded, embedding)[..., :height, :width]
        return PixelEditorOutput(sample=out) if return_dict else (out,)

    def _edit(self, sample: Tensor, embedding: Tensor) -> Tensor:
        x, skips = self._run(self.encoder[0], self.entry(sample), embedding), []
        for down, level in zip(self.down, self.encoder[1:], strict=True):
            skips.append(x)
            x = self._run(level, down(x), embedding)
        tone = self.tone(x, embedding, sample[:, -self.config.out_channels :])
        for up, level, skip in reversed(list(zip(self.up, self.decoder, skips, strict=True))):
            x = self._run(level, F.pixel_shuffle(up(x), 2) + skip, embedding)
        return self.exit(x) + tone

    def _run(self, level: nn.ModuleList, x: Tensor, embedding: Tensor) -> Tensor:
        for block in level:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, embedding)
            else:
                x = block(x, embedding)
        return x

    def _level(self, channels: int, blocks: int) -> nn.ModuleList:
        return nn.ModuleList(EditBlock(channels, self.config.embedding_dim) for _ in range(blocks))
