"""Instruction-tuned Stable Diffusion as a Hydra-configured experiment framework on PyTorch Lightning."""

from ip2p_lightning._torchmetrics import defer_metrics
from ip2p_lightning._torchvision import ensure_torchvision_importable

__version__ = "0.1.0"

# Before anything imports lightning, torchmetrics, timm or diffusers: all of them import torchvision.
ensure_torchvision_importable()
defer_metrics()
