"""Examples of image edits: sources of pairs, views, prompts, tasks and mixtures.

Names are imported when first used, so that ``import ip2p_lightning.data`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ip2p_lightning.data.dataloader import Loader
    from ip2p_lightning.data.datamodules import (
        CartoonDataModule,
        DeblurDataModule,
        DenoiseDataModule,
        DerainDataModule,
        EditDataModule,
        LowLightDataModule,
        MixtureDataModule,
    )
    from ip2p_lightning.data.example import EditExample
    from ip2p_lightning.data.image import open_image
    from ip2p_lightning.data.prompts import PromptPool
    from ip2p_lightning.data.sources import Built, Folder, HubDataset, Manifest, Photos
    from ip2p_lightning.data.transforms import View

_HOMES = {
    "datamodules": """CartoonDataModule DeblurDataModule DenoiseDataModule DerainDataModule EditDataModule
        LowLightDataModule MixtureDataModule""",
    "example": "EditExample",
    "image": "open_image",
    "dataloader": "Loader",
    "sources": "Built Folder HubDataset Manifest Photos",
    "prompts": "PromptPool",
    "transforms": "View",
}
_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Built",
    "CartoonDataModule",
    "DeblurDataModule",
    "DenoiseDataModule",
    "DerainDataModule",
    "EditDataModule",
    "EditExample",
    "Folder",
    "HubDataset",
    "Loader",
    "LowLightDataModule",
    "Manifest",
    "MixtureDataModule",
    "Photos",
    "PromptPool",
    "View",
    "open_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
