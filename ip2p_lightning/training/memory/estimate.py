"""Estimate of a run's memory, before any weights are read, and advice if it does not fit."""

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
from ip2p_lightning.training.memory.meta_unet import meta_unet

GIB = 2**30
BASE = {"cpu": 0.7, "cuda": 1.2}  # GiB of libraries and workspaces, measured on the CPU, usual on a GPU
SPARE = 0.1  # fraction of the device left free where the estimate decides
_MUCH = 2.0  # GiB from which on advice names a part
ENCODE, DECODE = 2560, 4600  # bytes a pixel in float32: the peak of SD 1.5's autoencoder, measured on a CPU
FROZEN = {"KLAutoencoder": 335e6, "TAESD": 10e6, "ClipText": 492e6}  # bytes of SD 1.5's parts in float32


@dataclass(frozen=True)
class Memory:
    """Memory of a run by purpose, GiB."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    copies: float  # autocast's 16-bit copies of weights
    activations: float
    base: float

    @property
    def total(self) -> float:
        """The peak, in the backward pass."""
        return sum(vars(self).values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.1f}" for name, value in vars(self).items() if value >= 0.05)
        return f"memory: about {self.total:.1f} GiB ({parts})"


def estimate(config: Mapping[str, Any]) -> Memory | None:
    """The memory of a checked config without ``auto``; None if the UNet's shape needs a download.

    A compiled step is counted as an eager one, which keeps more.
    """
    unet = meta_unet(config["unet"])
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
    """Autoencoder and text encoder: the size of their files, or of SD 1.5's if there are none yet."""
    total = 0.0
    for node, default in ((config["autoencoder"], "vae"), (config["text_encoder"], "text_encoder")):
        if node.get("path"):
            folder = Path(str(node["path"])).expanduser() / (node.get("subfolder", default) or "")
            sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
            total += max(sizes, default=FROZEN.get(node["_target_"].rpartition(".")[2], 0))
    return total


def _pictures(config: Mapping[str, Any]) -> float:
    """Peak bytes of SD's autoencoder while it encodes a batch or decodes one of a validation."""
    loader = config["loader"]
    if not config["autoencoder"]["_target_"].endswith("KLAutoencoder"):
        return 0.0
    shown = (loader.get("eval_batch_size") or loader["batch_size"]) * (loader.get("eval_size") or loader["size"]) ** 2
    encoded = loader["batch_size"] * loader["size"] ** 2
    return max(ENCODE * encoded, DECODE * shown if config.get("val_every") else 0)


def _optimizer_share(node: Mapping[str, Any]) -> float:
    """Bytes of an optimizer's state for each byte of float32 weights, measured on one matrix."""
    weight = nn.Parameter(torch.zeros(256, 256))
    optimizer = build(node)([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = [x for x in optimizer.state[weight].values() if isinstance(x, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in state) / (4 * weight.numel())


def room(config: Mapping[str, Any]) -> float | None:
    """GiB of the device for each process of the run; None if it is not in this machine."""
    if config["trainer"].get("accelerator") == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB / size(config["trainer"])
    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else None


def resolve_checkpointing(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with model.gradient_checkpointing=auto set: true if the run is known not to fit without, with `SPARE`
    of the device left."""
    if config["model"].get("gradient_checkpointing") != "auto":
        return dict(config)
    without, there = {**config, "model": {**config["model"], "gradient_checkpointing": False}}, room(config)
    memory = None if there is None else estimate(without)
    if memory is None or there is None or memory.total <= (1 - SPARE) * there:
        return without
    return {**config, "model": {**config["model"], "gradient_checkpointing": True}}


def describe_memory(config: Mapping[str, Any]) -> str:
    """The estimate in a line. Raises UserError with advice if the run does not fit."""
    asked = config["model"].get("gradient_checkpointing")
    config = resolve_checkpointing(config)
    memory, there = estimate(config), room(config)
    if memory is None:
        return "memory: not known before the weights are downloaded"
    if there is not None and memory.total > there:
        raise UserError(f"{memory}, but there are {there:.1f} GiB; {advice(config, memory)}")
    chosen = config["model"].get("gradient_checkpointing")
    how = f"; gradient checkpointing {'on' if chosen else 'off'}" if asked == "auto" else ""
    return f"{memory}" + (f" of {there:.1f} GiB" if there is not None else "; the device is not in this machine") + how


def advice(config: Mapping[str, Any], memory: Memory) -> str:
    """Settings that need less memory, those with the smallest effect on the result first."""
    model, unet, lora = config["model"], config["unet"], config["unet"].get("lora")
    cpu = config["trainer"].get("accelerator") == "cpu"
    words = {
        "a smaller loader.batch_size with a larger trainer.accumulate_grad_batches": config["loader"]["batch_size"] > 1,
        "loader.eval_batch_size=1": _pictures(config) > GIB,
        "model.gradient_checkpointing=true": not model.get("gradient_checkpointing"),
        "optimizer=adamw8bit": memory.optimizer > _MUCH,
        "model.ema=null": memory.average > _MUCH,
        "unet=sd_lora": not lora and not unet["_target_"].endswith("PixelEditor"),
        "unet.lora.dtype=bfloat16": lora and lora.get("dtype") != "bfloat16" and not cpu,
        "a smaller loader.size": config["loader"]["size"] > 256,
    }
    found = [word for word, applies in words.items() if applies]
    return "try " + ", then ".join(found) if found else "it needs a larger device or a smaller model"
