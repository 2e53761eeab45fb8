"""The editing UNet: Stable Diffusion's, with input channels for the original image.

Shapes: B batch, C latent channels, h w latent size, L tokens, D text width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.conditioning import Condition
from ip2p_lightning.networks.lora import Lora
from ip2p_lightning.networks.pretrained import load_part


def load_unet(
    path: str,
    subfolder: str | None = "unet",
    image_channels: int = 4,
    copy_bias: bool = True,
    revision: str | None = None,
    variant: str | None = None,
    lora: Lora | None = None,
) -> nn.Module:
    """A ``UNet2DConditionModel`` of [z_t | image latents], float32, in eval mode, from folder or hub repository `path`.

    With C latent channels (its output channels), a checkpoint of C inputs (text to image) is widened to
    C + `image_channels`, one of C + `image_channels` (already an editor) is taken as it is. `copy_bias` False
    reproduces diffusers' training script (diffusers#4960), see `widen`. `subfolder`, `revision` and `variant` say which
    files; `lora` freezes all but itself. Raises UserError for any other number of inputs and for missing weights,
    DamagedError for weights that cannot be read.
    """
    from diffusers import UNet2DConditionModel

    unet = load_part(UNet2DConditionModel, path, subfolder, revision=revision, variant=variant)
    latent, inputs = unet.config.out_channels, unet.config.in_channels
    if inputs == latent:
        widen(unet, image_channels, copy_bias)
    elif inputs != latent + image_channels:
        raise UserError(
            f"the UNet of {path} has {inputs} input channels; an editor needs {latent} (to be widened) "
            f"or {latent + image_channels} (latents and image)"
        )
    if lora is not None:
        lora.apply(unet, widened=inputs == latent)
    return unet


def widen(unet: nn.Module, image_channels: int, copy_bias: bool = True) -> nn.Module:
    """Give `unet` `image_channels` more inputs whose weights are zero (Brooks et al. 2023, section 3.2), in place.

    At first the output is exactly that of the unwidened UNet for any image. Without `copy_bias` it is not: the new
    layer keeps nn.Conv2d's random bias, as in diffusers' script.
    """
    old = unet.conv_in
    inputs = old.in_channels + image_channels
    new = nn.Conv2d(inputs, old.out_channels, old.kernel_size, old.stride, old.padding).to(old.weight)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels].copy_(old.weight)
        if copy_bias:
            new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=new.in_channels)
    return unet


def apply_unet(
    unet: nn.Module,
    z_t: Tensor,  # [B C h w]; at sampling already through scale_model_input
    t: Tensor,  # [B]
    condition: Condition,
) -> Tensor:  # [B C h w], in z_t's dtype
    """The UNet at [z_t | condition.image] in the channel dimension, in this order; text goes to cross-attention."""
    dtype = next(unet.parameters()).dtype
    inputs = torch.cat([z_t, condition.image.to(z_t.dtype)], dim=1).to(dtype)
    return unet(inputs, t, encoder_hidden_states=condition.text.to(dtype), return_dict=False)[0].to(z_t.dtype)
