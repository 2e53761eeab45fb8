"""Building datasets: candidates from a source, an audit of each, leak-free splits, Parquet shards and a card.

The order of work: `Origin.list` names candidates; they are cut into chunks; each chunk is examined and written by
`chunks` (many at a time, on one machine or many); `assemble` divides all of them into splits and writes the dataset.
Every step's output is a function of the input's content alone, so that a killed build continues to the same bytes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ip2p_lightning.curation.audit.policy import Audit
    from ip2p_lightning.curation.sources.folder_layout import FolderOrigin
    from ip2p_lightning.curation.sources.hub import HubOrigin
    from ip2p_lightning.curation.sources.manifest import ManifestOrigin

_HOMES = {
    "Audit": "audit.policy",
    "HubOrigin": "sources.hub",
    "FolderOrigin": "sources.folder_layout",
    "ManifestOrigin": "sources.manifest",
}

__all__ = ["Audit", "FolderOrigin", "HubOrigin", "ManifestOrigin"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
