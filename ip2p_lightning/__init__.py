"""Instruction-tuned Stable Diffusion as a Hydra-configured experiment framework on PyTorch Lightning."""

from ip2p_lightning.system.compat import allow_torchvision_import

__version__ = "0.1.0"

# Before anything imports lightning, torchmetrics, timm or diffusers: all of them import torchvision. It imports nothing
# itself: a command answers signals before torch is there.
allow_torchvision_import()
