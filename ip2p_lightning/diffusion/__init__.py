"""Paths between two ends, what is predicted on them, and how they are walked."""

from ip2p_lightning.diffusion.bridge import BridgeObjective
from ip2p_lightning.diffusion.guidance import GuidedNet, branches, edit_guidance
from ip2p_lightning.diffusion.noise_schedule import Schedule, checkpoint_schedule, disagreement
from ip2p_lightning.diffusion.objective import DiffusionObjective, Net, Objective
from ip2p_lightning.diffusion.samplers import BridgeSampler, DiffusionSampler, Sampler, noise_like

__all__ = [
    "BridgeObjective",
    "BridgeSampler",
    "DiffusionObjective",
    "DiffusionSampler",
    "GuidedNet",
    "Net",
    "Objective",
    "Sampler",
    "Schedule",
    "branches",
    "checkpoint_schedule",
    "disagreement",
    "edit_guidance",
    "noise_like",
]
