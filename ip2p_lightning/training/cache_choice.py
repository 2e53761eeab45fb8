"""Whether ``cache=auto`` caches: chosen when a run begins, and kept.

A run that lost its cache on the way, because the disk has become fuller or its steps fewer, would go on with other
crops, as would one rank that judged the disk otherwise than the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.runs.folder import note, read_status

KEY = "cache"  # in the run's status: the state of its cache


def noted(folder: Path) -> Mapping[str, Any] | None:
    """The state of a run's cache, None before it has been chosen."""
    return read_status(folder).get(KEY)


def settle(config: Mapping[str, Any], folder: Path, data: Any, ranks: int, afresh: bool) -> None:
    """Before there are ranks, put into the run's status what all of them go by. One alone chooses with its own model.

    `afresh`: whether the run begins: what a start before it chose is forgotten.
    """
    if afresh and noted(folder) is not None:
        note(folder, **{KEY: None})
    if config.get("cache") == "auto" and ranks > 1 and noted(folder) is None:
        from ip2p_lightning.config.build import build
        from ip2p_lightning.data.latent_cache.cache import cached

        cache = cached(config, data, build(config["autoencoder"]), ranks)
        note(folder, **{KEY: cache.state() if cache else None})
