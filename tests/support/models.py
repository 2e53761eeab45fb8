"""Modules and batches of a command line, without a run."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer

from ip2p_lightning.config import build
from ip2p_lightning.data.example import EditExample
from tests.support import configs

SMALL = ("loader.size=16", "loader.resize=null", "loader.eval_size=32", "loader.batch_size=2")


def config_of(*words: str) -> dict:
    """The checked config of ``ip2p-train WORDS``, for small images."""
    return configs.config_of(*SMALL, *words)


def module_of(*words: str):
    """The untrained module, ready to be called."""
    module = build.build_module(config_of(*words))
    module.setup("fit")
    return module


def bare_trainer(**options) -> Trainer:
    """Lightning's, on a CPU, without what a run adds: no logs, bars, checkpoints or validations."""
    off = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    return Trainer(**{"accelerator": "cpu", "limit_val_batches": 0, **dict.fromkeys(off, False), **options})


def stirred(module, scale: float = 0.05):
    """The module with every weight moved, so that nothing is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module


def batch_of(size: int = 4, side: int = 16, task: str = "denoise", seed: int = 0) -> EditExample:
    """Random pairs."""
    images = torch.rand(2, size, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    names = [f"photo{i}" for i in range(size)]
    return EditExample(images[0], images[1], ["remove the noise"] * size, [task] * size, names)


def strings_encoded(encoder) -> list[int]:
    """How many strings reach a text encoder's model from now on, one entry a call."""
    calls = []
    encoder.model.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    return calls
