"""What a config leaves to ``auto``, chosen once: by the process that leads the run, before there are other ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ip2p_lightning.config.build import build
from ip2p_lightning.data.latent_cache.cache import Cache, Share, refusal, shares_of
from ip2p_lightning.data.latent_cache.examples import Codec
from ip2p_lightning.data.latent_cache.settings import DTYPES, Settings, samples_of, settings_of
from ip2p_lightning.runs.folder import note, read_status
from ip2p_lightning.system.files import free_bytes
from ip2p_lightning.training.memory.estimate import resolve_checkpointing
from ip2p_lightning.training.memory.meta_unet import part_config


def resolve_auto(config: Mapping[str, Any], folder: Path, data: Any, ranks: int, afresh: bool) -> dict[str, Any]:
    """The config with plain values in place of ``auto``; the choices go into the status in the run's `folder`.

    Where no task has a photo for validation, there is none.

    Gradient checkpointing changes no number: it is chosen at each start, for the present device. The cache decides
    which crops are seen: the choice made when the run began is kept, unless the run begins `afresh`.
    """
    cache = None if afresh else read_status(folder).get("cache")
    if config["cache"] == "auto" and cache is None:
        reason = _against_caching(config, data, ranks)
        cache = {"mode": "off", "reason": reason} if reason else {"mode": "disk"}
    checkpointing = resolve_checkpointing(config)["model"].get("gradient_checkpointing", False)
    note(folder, cache=cache, gradient_checkpointing=checkpointing)
    if config["cache"] == "auto" and cache.get("reason"):
        print(f"cache: off: {cache['reason']}")
    values: dict[str, Any] = {"model": {**config["model"], "gradient_checkpointing": checkpointing}}
    if config["cache"] == "auto":
        values["cache"] = "off" if cache.get("reason") else "disk"
    if config.get("val_every") and not data.datasets("val").tasks:  # no photo to validate with
        values["val_every"] = 0
    return {**config, **values}


def _against_caching(config: Mapping[str, Any], data: Any, ranks: int) -> str:
    """Why a cache does not pay, "" where it does; no weights are read."""
    settings = replace(settings_of(config), mode="disk")
    shares, samples = shares_of(settings, data), samples_of(config, ranks)
    entries = sum(share.entries for share in shares)
    if config["autoencoder"]["_target_"].endswith("PixelUnshuffle"):
        return "this model encodes a photo in no time, so that there is nothing to store"
    if reason := refusal(shares):
        return reason
    if samples < 2 * entries:
        seen = f"a run of {samples} examples uses each of {entries} stored crops less than twice"
        return f"it would cost more than it saves, {seen}; if more runs follow, cache=disk serves them too"
    return _too_large(config, settings, data, shares)


def _too_large(config: Mapping[str, Any], settings: Settings, data: Any, shares: list[Share]) -> str:
    """Why the disk has no room for what is not there yet, "" where it has."""
    free, payload = free_bytes(Path(settings.folder).expanduser()), _payload(config)
    missing = sum(share.entries for share in shares)
    if missing * payload > free / 2:  # only the weights say which of the entries there are theirs
        missing -= min(missing, len(Cache(settings, data, build(config["autoencoder"])).space))
    if missing * payload > free / 2:
        sizes = f"{missing * payload / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free in {settings.folder}"
        return f"{sizes}; cache_dir=DIR puts it on a larger disk"
    return ""


def _payload(config: Mapping[str, Any]) -> int:
    """Bytes of a stored pair, by the autoencoder's config.json; by SD 1.5's where that is not here yet."""
    node = config["autoencoder"]
    point = node["_target_"].endswith("TAESD")
    shape = part_config(str(node.get("path")), node.get("subfolder", None if point else "vae")) or {}
    side = config["loader"]["size"] // 2 ** (len(shape.get("block_out_channels", range(4))) - 1)
    return Codec(shape.get("latent_channels", 4), side, point, DTYPES[config["cache_dtype"]]).payload
