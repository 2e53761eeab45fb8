"""Instruction-tuned Stable Diffusion as a Hydra-configured experiment framework on PyTorch Lightning."""

from ip2p_lightning.system.compat import defer_metrics, mend_torchvision

__version__ = "0.1.0"

# Before anything imports lightning, torchmetrics, timm or diffusers: all of them import torchvision. Neither imports
# anything itself: a command answers signals before torch is there.
mend_torchvision()
defer_metrics()
