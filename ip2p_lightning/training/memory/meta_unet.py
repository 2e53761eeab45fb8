"""A run's UNet on the meta device: layers and shapes, without weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ip2p_lightning.config.build import build
from ip2p_lightning.networks.pretrained import is_hub_id

SD15_SHAPED = {  # where the class's defaults are not SD 1.5's
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 768},
    "timbrooks/instruct-pix2pix": {"in_channels": 8, "out_channels": 4, "cross_attention_dim": 768},
}


def meta_unet(node: Mapping[str, Any]) -> Any:
    """The UNet of a checked config's node, frozen where the run's is; None if its shape is not known here."""
    with torch.device("meta"):
        if node["_target_"].endswith("PixelEditor"):
            return build(node)
        from diffusers import UNet2DConditionModel

        shape = part_config(str(node["path"]), node.get("subfolder", "unet"))
        if shape is None:
            return None
        inputs = 2 * shape["out_channels"]
        unet = UNet2DConditionModel.from_config({**shape, "in_channels": inputs})
        if node.get("lora"):
            build(node["lora"]).apply(unet, widened=shape["in_channels"] != inputs)
        return unet


def part_config(path: str, subfolder: str | None) -> dict[str, Any] | None:
    """The config.json of a checkpoint's part: of a folder, of the hub's cache, or known by its name."""
    from huggingface_hub import try_to_load_from_cache

    name = f"{subfolder}/config.json" if subfolder else "config.json"
    place = Path(path).expanduser() / name
    cached = try_to_load_from_cache(path, name) if is_hub_id(path) and not place.is_file() else place
    if isinstance(cached, str | Path) and Path(cached).is_file():
        return json.loads(Path(cached).read_text())
    return SD15_SHAPED.get(path)
