"""What a dry run checks before any weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import UserError


def places(config: Mapping[str, Any]) -> str:
    """A line on where a checked config's weights are; none is read. Raises UserError for a missing folder."""
    from ip2p_lightning.networks.pretrained import is_local, missing

    found: dict[str, bool] = {}
    for name, usual in (("unet", "unet"), ("autoencoder", "vae"), ("text_encoder", "text_encoder")):
        path, subfolder = config[name].get("path"), config[name].get("subfolder", usual)
        if path is None:  # random weights
            continue
        found[path] = is_local(path, subfolder)
        if found[path] and not (Path(path).expanduser() / (subfolder or "")).is_dir():
            raise UserError(missing(path, subfolder))
    sources = (f"{path} {'is here' if here else 'is on the Hub (not checked)'}" for path, here in found.items())
    return f"weights: {'; '.join(sources) or 'random'}"
