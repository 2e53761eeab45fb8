"""Frozen codecs between images and latents.

They are plain objects, not modules: a LightningModule that holds one keeps it out of its state_dict, EMA, optimiser and
DDP, and a deep copy of the module shares it.

Shapes: B batch, C latent channels, H W pixels, h w = H/factor, W/factor. Images lie in [-1, 1].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.memory_format import to_channels_last
from ip2p_lightning.networks.pretrained import load_part

LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0  # as in diffusers' DiagonalGaussianDistribution


class Autoencoder:
    """A frozen codec, computing in the precision that `to` gave it, also under autocast.

    A cache stores `moments`. `mode` is NOT scaled, `sample` and `decode` are of scaled z: InstructPix2Pix's UNet sees
    the unscaled mode of the original and denoises the scaled sample of the edit (timothybrooks/instruct-pix2pix#36).
    """

    channels: int  # C
    factor: int
    scaling_factor: float
    deterministic = False  # whether the posterior is a point
    model: Any = None

    def moments(self, x: Tensor) -> Tensor:  # [B 3 H W] -> [B 2C h w]
        """Mean and log-variance, float32. Raises UserError unless `factor` divides H and W."""
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise UserError(f"image size {height}x{width} is not a multiple of {self.factor}: resize or crop it")
        with torch.no_grad(), _held_precision(x):
            return self._each(self._moments, x)

    def sample(self, moments: Tensor, noise: Tensor) -> Tensor:  # [B 2C h w], [B C h w] -> [B C h w]
        """z = (mean + std eps) x scaling_factor: what the UNet denoises."""
        mean, logvar = moments.chunk(2, dim=1)
        z = mean if self.deterministic else mean + torch.exp(0.5 * logvar) * noise
        return z * self.scaling_factor

    def mode(self, moments: Tensor) -> Tensor:  # [B 2C h w] -> [B C h w]
        """The mean, NOT scaled: what the UNet is shown."""
        return moments.chunk(2, dim=1)[0]

    def decode(self, z: Tensor) -> Tensor:  # [B C h w], scaled -> [B 3 H W]
        """The image of scaled latents, float32, about [-1, 1], not clamped."""
        with torch.no_grad(), _held_precision(z):
            return self._each(self._decode, z)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Autoencoder:
        """Move and convert in place; returns self."""
        if self.model is not None:
            given = {"device": device, "dtype": dtype}  # diffusers warns of a dtype, even where it is None
            self.model.to(**{name: value for name, value in given.items() if value is not None})
        return self

    def digest(self) -> str:
        """sha256 over name, settings and weights as they are held (so it depends on their dtype, not on the device)."""
        found = hashlib.sha256(f"{type(self).__name__} {self.channels} {self.factor} {self.scaling_factor}".encode())
        config = {} if self.model is None else self.model.config  # activations, groups of norms, scales
        settings = {name: value for name, value in config.items() if not name.startswith("_")}  # no paths, no versions
        found.update(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, weight in sorted(self.model.state_dict().items()) if self.model is not None else ():
            found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            found.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return found.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write diffusers' layout. Raises UserError for a codec that has none."""
        if self.model is None:
            raise UserError(f"{type(self).__name__} has no diffusers layout to save")
        self.model.save_pretrained(folder)

    def __deepcopy__(self, memo: dict) -> Autoencoder:
        return self

    def _each(self, convert: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """On a CPU one image at a time: twice as fast as eight, in less memory, and no image depends on its neighbours
        to the last bit, as it does in a batch. (Measured: benchmarks/results/vs_diffusers_cpu_202611.md.)"""
        if self.model is None or x.device.type != "cpu":
            return convert(x).float()
        return torch.cat([convert(one).float() for one in x.split(1)])

    def _moments(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _decode(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def _hold(self, model: nn.Module) -> None:
        if model.config.get("shift_factor"):
            raise UserError(f"an autoencoder with shift_factor {model.config.shift_factor} is not supported")
        self.model = model.requires_grad_(False).eval()
        to_channels_last(self.model)  # the same numbers to 1e-5, a tenth faster
        self.channels = model.config.latent_channels
        self.scaling_factor = float(model.config.scaling_factor)


class KLAutoencoder(Autoencoder):
    """Stable Diffusion's VAE (Rombach et al. 2022): ``AutoencoderKL`` from a folder or hub repository `path`.

    `subfolder` is "vae" inside a full checkpoint, None for a repository that is the VAE itself; `revision` is a commit.
    """

    def __init__(self, path: str, subfolder: str | None = "vae", revision: str | None = None) -> None:
        from diffusers import AutoencoderKL

        self._hold(load_part(AutoencoderKL, path, subfolder, revision=revision))
        self.factor = 2 ** (len(self.model.config.block_out_channels) - 1)

    def _moments(self, x: Tensor) -> Tensor:
        posterior = self.model.encode(x.to(self.model.dtype)).latent_dist  # its logvar is clamped to [-30, 20]
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    def _decode(self, z: Tensor) -> Tensor:
        return self.model.decode((z / self.scaling_factor).to(self.model.dtype)).sample


class TAESD(Autoencoder):
    """The tiny autoencoder of O. Bohan (madebyollin/taesd): ``AutoencoderTiny``; its posterior is a point.

    From a folder or hub repository `path`, a `subfolder` of it, at `revision`.

    TAESD's latents are those of the KL autoencoder ALREADY multiplied by 0.18215, and its own scaling factor is 1: by
    default its mode is 5.5 times smaller than the mode a released InstructPix2Pix was trained on, as in diffusers'
    pipeline. With `latent_scale` 0.18215 mode and sample have the KL autoencoder's magnitudes.
    """

    deterministic = True

    def __init__(
        self,
        path: str = "madebyollin/taesd",
        subfolder: str | None = None,
        revision: str | None = None,
        latent_scale: float | None = None,
    ) -> None:
        from diffusers import AutoencoderTiny

        self._hold(load_part(AutoencoderTiny, path, subfolder, revision=revision))
        self.factor = self.model.spatial_scale_factor
        if latent_scale is not None and not latent_scale > 0:
            raise UserError(f"autoencoder.latent_scale must be positive, got {latent_scale}")
        self.own_scale = self.scaling_factor
        self.scaling_factor = self.own_scale if latent_scale is None else latent_scale

    def _moments(self, x: Tensor) -> Tensor:
        return _point(self.model.encode(x.to(self.model.dtype)).latents * (self.own_scale / self.scaling_factor))

    def _decode(self, z: Tensor) -> Tensor:
        return self.model.decode((z / self.own_scale).to(self.model.dtype)).sample


class PixelUnshuffle(Autoencoder):
    """A lossless codec: each `factor` x `factor` patch of pixels becomes 3 factor^2 channels. It has no weights."""

    scaling_factor = 1.0
    deterministic = True

    def __init__(self, factor: int = 2) -> None:
        if factor < 1:
            raise UserError(f"autoencoder.factor must be at least 1, got {factor}")
        self.factor = factor
        self.channels = 3 * factor**2

    def _moments(self, x: Tensor) -> Tensor:
        return _point(F.pixel_unshuffle(x, self.factor))

    def _decode(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(z, self.factor)


def _point(mean: Tensor) -> Tensor:  # [B C h w] -> [B 2C h w]
    return torch.cat([mean, torch.full_like(mean, LOGVAR_MIN)], dim=1)


def _held_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
