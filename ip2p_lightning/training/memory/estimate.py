"""How much memory a run will need, before any weights are read; and advice where that is more than there is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ip2p_lightning.config.build import build
from ip2p_lightning.errors import UserError
from ip2p_lightning.training.distributed.environment import size
from ip2p_lightning.training.memory.activations import kept
from ip2p_lightning.training.memory.meta_unet import unet_outline

GIB = 2**30
BASE = {"cpu": 0.7, "cuda": 1.2}  # GiB of libraries and workspaces, measured on the CPU, usual on a GPU
SPARE = 0.1  # part of a device that is left free where a choice is made by the estimate
_MUCH = 2.0  # GiB above which it pays to name a part
ENCODE, DECODE = 2560, 4600  # bytes a pixel in float32: the peak of SD 1.5's autoencoder, measured on a CPU
FROZEN = {"KLAutoencoder": 335e6, "TAESD": 10e6, "ClipText": 492e6}  # bytes of SD 1.5's parts in float32


@dataclass(frozen=True)
class Memory:
    """GiB a run needs, by what for."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    copies: float  # of weights in 16 bits, which autocast makes
    activations: float
    base: float

    @property
    def total(self) -> float:
        """All of it at once: the peak, in the backward pass."""
        return sum(vars(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in vars(self).items() if value >= 0.05)
        return f"memory: about {self.total:.1f} GiB ({parts})"


def estimate(config: Mapping[str, Any]) -> Memory | None:
    """Of a checked config; None where the UNet's shape is not known without a download.

    Weights are counted, what the optimizer keeps is asked of it, activations are counted on tensors without data. A
    compiled step is counted as an eager one, which keeps more. What is left to the memory has been `decided`.
    """
    unet = unet_outline(config["unet"])
    if unet is None:
        return None
    loader, model = config["loader"], config["model"]
    half = "16" in str(config["trainer"].get("precision", "32"))
    side = loader["size"] // (config["autoencoder"].get("factor") or 8)
    held = sum(p.numel() * p.element_size() for p in unet.parameters())
    trained = 4 * sum(p.numel() for p in unet.parameters() if p.requires_grad)
    saved = kept(unet, side, 77, unet.config.cross_attention_dim, half, model.get("gradient_checkpointing") is True)
    return Memory(
        weights=(held + _frozen_bytes(config)) / GIB,
        gradients=trained / GIB,
        optimizer=trained * _optimizer_share(config["optimizer"]) / GIB,
        average=(trained if model.get("ema") is not None else 0) / GIB,
        copies=saved.copies / GIB,
        activations=max(loader["batch_size"] * saved.image, _pictures(config)) / GIB,
        base=BASE["cpu" if config["trainer"].get("accelerator") == "cpu" else "cuda"],
    )


def _frozen_bytes(config: Mapping[str, Any]) -> float:
    """Autoencoder and text encoder: the size of their files, or of SD 1.5's where they are not here."""
    total = 0.0
    for name, default in (("autoencoder", "vae"), ("text_encoder", "text_encoder")):
        path = config[name].get("path")
        if path:
            folder = Path(str(path)).expanduser() / (config[name].get("subfolder", default) or "")
            sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
            total += max(sizes, default=FROZEN.get(config[name]["_target_"].rpartition(".")[2], 0))
    return total


def _pictures(config: Mapping[str, Any]) -> float:
    """Bytes that SD's autoencoder needs to encode a batch or decode one of a validation; soon let go."""
    loader = config["loader"]
    if not config["autoencoder"]["_target_"].endswith("KLAutoencoder"):
        return 0.0
    shown = (loader.get("eval_batch_size") or loader["batch_size"]) * (loader.get("eval_size") or loader["size"]) ** 2
    encoded = loader["batch_size"] * loader["size"] ** 2
    return max(ENCODE * encoded, DECODE * shown if config.get("val_every") else 0)


def _optimizer_share(node: Mapping[str, Any]) -> float:
    """Bytes that an optimizer keeps for each byte of float32 weights: asked of it, with one matrix."""
    weight = nn.Parameter(torch.zeros(256, 256))
    optimizer = build(node)([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = [x for x in optimizer.state[weight].values() if isinstance(x, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in state) / (4 * weight.numel())


def room(config: Mapping[str, Any]) -> float | None:
    """GiB of the device that one process of the run wants; None where it is not in this machine."""
    if config["trainer"].get("accelerator") == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB / size(config["trainer"])
    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else None


def decided(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what it leaves to the memory: model.gradient_checkpointing=auto is true where one micro-batch
    would not fit otherwise."""
    if config["model"].get("gradient_checkpointing") != "auto":
        return dict(config)
    fits = _fits(_checkpointing(config, False))
    return _checkpointing(config, fits is False)


def _checkpointing(config: Mapping[str, Any], on: bool) -> dict[str, Any]:
    return {**config, "model": {**config["model"], "gradient_checkpointing": on}}


def _fits(config: Mapping[str, Any]) -> bool | None:
    """Whether the device would hold it, with some left over; None where that is not known."""
    there = room(config)
    memory = None if there is None else estimate(config)
    return None if memory is None or there is None else memory.total <= (1 - SPARE) * there


def told(config: Mapping[str, Any]) -> str:
    """The estimate in a line.

    Raises:
        UserError: the run cannot fit; with advice.
    """
    asked = config["model"].get("gradient_checkpointing")
    config = decided(config)
    memory, there = estimate(config), room(config)
    if memory is None:
        return "memory: not known before the weights are here"
    if there is not None and memory.total > there:
        raise UserError(f"{memory}, but there are {there:.1f} GiB; {advice(config, memory)}")
    chosen = config["model"].get("gradient_checkpointing")
    how = f"; gradient checkpointing {'on' if chosen else 'off'}" if asked == "auto" else ""
    return f"{memory}" + (f" of {there:.1f} GiB" if there is not None else "; the device is not in this machine") + how


def advice(config: Mapping[str, Any], memory: Memory) -> str:
    """What would need less, the most harmless first."""
    model, unet = config["model"], config["unet"]
    cpu = config["trainer"].get("accelerator") == "cpu"
    whole = not unet["_target_"].endswith("PixelEditor") and not unet.get("lora")
    words = {
        "a smaller loader.batch_size with a larger trainer.accumulate_grad_batches": config["loader"]["batch_size"] > 1,
        "loader.eval_batch_size=1": _pictures(config) > GIB,
        "model.gradient_checkpointing=true": not model.get("gradient_checkpointing"),
        "optimizer=adamw8bit": memory.optimizer > _MUCH,
        "model.ema=null": memory.average > _MUCH,
        "unet=sd_lora": whole,
        "unet.lora.dtype=bfloat16": bool(unet.get("lora")) and unet["lora"].get("dtype") != "bfloat16" and not cpu,
        "a smaller loader.size": config["loader"]["size"] > 256,
    }
    found = [word for word, applies in words.items() if applies]
    return "try " + ", then ".join(found) if found else "it needs a larger device or a smaller model"
