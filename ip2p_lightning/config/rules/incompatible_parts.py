"""Rules on group members that do not fit together."""

from __future__ import annotations

from ip2p_lightning.config.rules.base import Rules, target
from ip2p_lightning.config.walk import get

PARTS: Rules = (
    (
        lambda c: (target(c, "objective") == "BridgeObjective") != (target(c, "sampler") == "BridgeSampler"),
        lambda c: (
            f"objective={target(c, 'objective')} cannot be sampled by sampler={target(c, 'sampler')}: a bridge "
            "starts from the original (sampler=bridge), a diffusion from noise (sampler=ddim)"
        ),
    ),
    (
        lambda c: target(c, "text_encoder") == "ClipText" and target(c, "unet") == "PixelEditor",
        lambda c: "text_encoder=clip and unet=pixel: the pixel network reads text of width 64; use text_encoder=static",
    ),
    (
        lambda c: (target(c, "autoencoder") == "PixelUnshuffle") != (target(c, "unet") == "PixelEditor"),
        lambda c: (
            f"unet={target(c, 'unet')} and autoencoder={target(c, 'autoencoder')}: a pixel unet needs "
            "autoencoder=pixel, an SD unet sd, ft-mse or taesd"
        ),
    ),
    (
        lambda c: target(c, "unet") == "load_unet" and get(c, "unet.path") is None,
        lambda c: "model.path has no value: a folder in diffusers' layout, or a hub id; give model.path=DIR",
    ),
    (
        lambda c: target(c, "unet") == "load_unet" and target(c, "text_encoder") != "ClipText",
        lambda c: (
            f"unet=sd and text_encoder={target(c, 'text_encoder')}: Stable Diffusion's UNet was trained on CLIP's "
            "text; use text_encoder=clip"
        ),
    ),
)
