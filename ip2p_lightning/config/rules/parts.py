"""Rules on group members: parts that do not fit together, refused by both names."""

from __future__ import annotations

from ip2p_lightning.config.rules.base import Config, Rules, _apply, _get, _target


def parts_fit(config: Config) -> None:
    """Raise UserError for group members that do not go together; the line names both. Values may still be wrong."""
    _apply(_PARTS, config)


_PARTS: Rules = (
    (
        lambda c: _get(c, "text_encoder.corpus", c.get("prompts")) != c.get("prompts"),
        lambda c: "text_encoder.corpus is the run's prompts; change prompts, e.g. prompts.limit=10",
    ),
    (
        lambda c: (_target(c, "objective") == "BridgeObjective") != (_target(c, "sampler") == "BridgeSampler"),
        lambda c: (
            f"objective={_target(c, 'objective')} cannot be sampled by sampler={_target(c, 'sampler')}: a bridge "
            "starts from the original (sampler=bridge), a diffusion from noise (sampler=ddim)"
        ),
    ),
    (
        lambda c: _target(c, "text_encoder") == "ClipText" and _target(c, "unet") == "PixelEditor",
        lambda c: "text_encoder=clip and unet=pixel: the pixel network reads text of width 64; use text_encoder=tiny",
    ),
    (
        lambda c: (_target(c, "autoencoder") == "PixelUnshuffle") != (_target(c, "unet") == "PixelEditor"),
        lambda c: (
            f"unet={_target(c, 'unet')} and autoencoder={_target(c, 'autoencoder')}: a pixel unet needs "
            "autoencoder=pixel, an SD unet sd, ft-mse or taesd"
        ),
    ),
    (
        lambda c: _target(c, "unet") == "load_unet" and _get(c, "unet.path") is None,
        lambda c: "model.path has no value: a folder in diffusers' layout, or a hub id; give model.path=DIR",
    ),
    (
        lambda c: _target(c, "unet") == "load_unet" and _target(c, "text_encoder") == "TinyText",
        lambda c: (
            "unet=sd and text_encoder=tiny: Stable Diffusion's UNet was trained on CLIP's text; use text_encoder=clip"
        ),
    ),
)
