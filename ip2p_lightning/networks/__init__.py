"""The parts with weights: codecs, text encoders, editors, and what an editor is shown.

Names are resolved on first use, so that importing one part does not pay for another.
"""

import importlib
from typing import Any

_HOMES = {
    "KLAutoencoder": "autoencoder",
    "PixelUnshuffle": "autoencoder",
    "TAESD": "autoencoder",
    "Autoencoder": "autoencoder",
    "Condition": "conditioning",
    "Conditioner": "conditioning",
    "Lora": "lora",
    "PixelEditor": "pixel_unet",
    "ClipText": "text_encoder",
    "SentenceText": "projected_text",
    "StaticText": "projected_text",
    "TextEncoder": "text_encoder",
    "TinyText": "text_encoder",
    "apply_unet": "unet",
    "leaner": "fast_sampling",
    "to_channels_last": "memory_format",
    "load_unet": "unet",
    "widen": "unet",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
