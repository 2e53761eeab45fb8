"""How much memory a run will need, before any weights are read; and advice where that is more than there is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ip2p_lightning.errors import UserError
from ip2p_lightning.meters import saved_bytes

GIB = 2**30
BASE = {"cpu": 0.7, "cuda": 1.2}  # GiB of libraries and workspaces, measured on the CPU, usual on a GPU
_AVERAGED = 2.0  # GiB above which it pays to say that the averaged weights cost memory


@dataclass(frozen=True)
class Memory:
    """GiB a run needs, by what for."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    base: float

    @property
    def total(self) -> float:
        """All of it at once: the peak, in the backward pass."""
        return sum(vars(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in vars(self).items())
        return f"memory: about {self.total:.1f} GiB ({parts})"


def estimate(config: Mapping[str, Any]) -> Memory | None:
    """Of a checked config; None where the UNet's shape is not known without a download.

    Activations are what autograd keeps of one image, counted on tensors without data, times the micro-batch; bf16 and
    fp16 are taken to halve them. Good to about a quarter.
    """
    made = _unet(config["unet"])
    if made is None:
        return None
    unet, count = made, sum(p.numel() for p in made.parameters())
    loader, model = config["loader"], config["model"]
    side = loader["size"] // (config["autoencoder"].get("factor") or 8)
    width = unet.config.cross_attention_dim
    kept = saved_bytes(unet, side, 77, width, bool(model.get("gradient_checkpointing")))
    half = 0.5 if "16" in str(config["trainer"].get("precision", "32")) else 1.0
    images = loader["batch_size"] * loader.get("merge", 1)
    frozen = _frozen_bytes(config)
    return Memory(
        weights=(4 * count + frozen) / GIB,
        gradients=4 * count / GIB,
        optimizer=8 * count / GIB,
        average=(4 * count if model.get("ema") is not None else 0) / GIB,
        activations=images * kept * half / GIB,
        base=BASE["cpu" if config["trainer"].get("accelerator") == "cpu" else "cuda"],
    )


def _unet(node: Mapping[str, Any]) -> Any:
    """The run's UNet without data."""
    settings = {k: v for k, v in node.items() if not k.startswith("_")}
    with torch.device("meta"):
        if node["_target_"].endswith("PixelEditor"):
            from ip2p_lightning.networks import PixelEditor

            return PixelEditor(**settings)
        folder = Path(str(settings["path"])).expanduser() / (settings.get("subfolder", "unet") or "")
        if not (folder / "config.json").is_file():
            return None
        from diffusers import UNet2DConditionModel

        shape = dict(UNet2DConditionModel.load_config(folder))
        shape["in_channels"] = 2 * shape["out_channels"]
        return UNet2DConditionModel.from_config(shape)


def _frozen_bytes(config: Mapping[str, Any]) -> int:
    """Autoencoder and text encoder: the size of their files."""
    total = 0
    for name, default in (("autoencoder", "vae"), ("text_encoder", "text_encoder")):
        path = config[name].get("path")
        if path:
            folder = Path(str(path)).expanduser() / (config[name].get("subfolder", default) or "")
            total += max((f.stat().st_size for f in folder.glob("*.safetensors")), default=0)
    return total


def room(config: Mapping[str, Any]) -> float | None:
    """GiB of the device the run wants; None where it is not in this machine."""
    if config["trainer"].get("accelerator") == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else None


def told(config: Mapping[str, Any]) -> str:
    """The estimate in a line.

    Raises:
        UserError: the run cannot fit; with advice.
    """
    memory, there = estimate(config), room(config)
    if memory is None:
        return "memory: not known before the weights are here"
    if there is not None and memory.total > there:
        raise UserError(f"{memory}, but there are {there:.1f} GiB; {advice(config, memory)}")
    return f"{memory}" + (f" of {there:.1f} GiB" if there is not None else "; the device is not in this machine")


def advice(config: Mapping[str, Any], memory: Memory) -> str:
    """What would need less, the most harmless first."""
    found = []
    if config["loader"].get("merge", 1) > 1:
        found.append("loader.merge=1")
    if config["loader"]["batch_size"] > 1:
        found.append("a smaller loader.batch_size with a larger trainer.accumulate_grad_batches")
    if not config["model"].get("gradient_checkpointing"):
        found.append("model.gradient_checkpointing=true")
    if memory.average > _AVERAGED:
        found.append("model.ema=null")
    if config["loader"]["size"] > 256:
        found.append("a smaller loader.size")
    return "try " + ", then ".join(found) if found else "it needs a larger device or a smaller model"
