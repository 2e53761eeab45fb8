"""Published weights of White-box Cartoonization by the names of the port."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ip2p_lightning.data.teachers.tf_checkpoint import Bundle
from ip2p_lightning.data.teachers.tflite import convolutions
from ip2p_lightning.data.teachers.whitebox import BLOCKS, WHERE, WhiteboxGenerator
from ip2p_lightning.errors import UserError

LAYERS = (
    *["conv", *(f"conv_{i}" for i in range(1, 5))],
    *(f"block_{i}.{conv}" for i in range(BLOCKS) for conv in ("conv1", "conv2")),
    *(f"conv_{i}" for i in range(5, 10)),
)
"""In the order in which they run."""


def weights(source: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that was read (of a checkpoint, its index) and the generator's tensors, by their names in the port.

    Raises UserError: nothing there, or not this generator; DamagedError, StorageError: as the readers do.
    """
    file = _file(source)
    tensors = _from_tflite(file) if file.suffix == ".tflite" else _from_checkpoint(file)
    try:
        WhiteboxGenerator.from_weights(tensors)
    except RuntimeError as error:
        misfit = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{file}: not the generator of White-box Cartoonization: {misfit}") from None
    return file, tensors


def _file(source: Path) -> Path:
    if source.is_dir():
        found = sorted([*source.glob("*.index"), *source.glob("*.tflite")])
        if len(found) != 1:
            raise UserError(f"{source}: {len(found)} checkpoints (*.index) or *.tflite files; name one of them")
        return found[0]
    for file in (source, Path(f"{source}.index")):
        if file.is_file():
            if file.suffix in (".tflite", ".index"):
                return file
            raise UserError(f"{source}: give a .tflite file, or a TensorFlow checkpoint's .index")
    raise UserError(f"{source}: no such file; {WHERE}")


def _from_tflite(file: Path) -> dict[str, Tensor]:
    found = convolutions(file)
    if len(found) != len(LAYERS):
        raise UserError(f"{file}: {len(found)} convolutions, White-box Cartoonization's has {len(LAYERS)}")
    tensors: dict[str, Tensor] = {}
    for layer, (weight, bias) in zip(LAYERS, found, strict=True):
        tensors[f"{layer}.weight"] = _tensor(weight, (0, 3, 1, 2))  # O kH kW I -> O I kH kW
        tensors[f"{layer}.bias"] = _tensor(bias, (0,))
    return tensors


def _from_checkpoint(file: Path) -> dict[str, Tensor]:
    bundle, tensors = Bundle(file.with_suffix("")), {}
    for layer in LAYERS:
        scope = "generator/" + layer.replace("conv", "Conv" if "." not in layer else "conv").replace(".", "/")
        for name, kind, axes in (("weight", "weights", (3, 2, 0, 1)), ("bias", "biases", (0,))):  # kH kW I O
            stored = f"{scope}/{kind}"
            if stored not in bundle.entries:
                raise UserError(f"{file}: no {stored}: not a checkpoint of White-box Cartoonization's generator")
            array = bundle.read(stored)
            if array.ndim != len(axes):
                raise UserError(f"{file}: {stored} has {array.ndim} axes, {len(axes)} expected")
            tensors[f"{layer}.{name}"] = _tensor(array.astype(np.float32), axes)
    return tensors


def _tensor(array: np.ndarray, axes: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(array.transpose(axes).copy())
