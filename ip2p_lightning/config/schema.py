"""What a config may name, and whether a value from YAML fits a type hint."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from ip2p_lightning.errors import UserError

_DATA = """Loader Photos Folder Manifest HubDataset PromptPool MixtureDataModule EditDataModule CartoonDataModule
DerainDataModule DenoiseDataModule LowLightDataModule DeblurDataModule Built"""
_TEXT = ("ClipText", "TinyText")
_MAKERS = """degradations.noise.GaussianNoise degradations.noise.PoissonGaussianNoise degradations.noise.SensorNoise
degradations.rain.Rain degradations.low_light.LowLight"""
_CALLBACKS = "progress.Progress image_grids.ImageGrids sample_log.SampleLog profiler.Profile"
_LOGGERS = "tensorboard.TensorBoard wandb.Wandb mlflow.Mlflow"
_EXTRAS = {"wandb": "wandb", "mlflow": "mlflow", "bitsandbytes": "gpu"}  # library to the extra that brings it

# Exact names, no prefixes: a prefix such as `torch.` would let a config reach torch.load or torch.hub.
ALLOWED_TARGETS = frozenset(
    [f"ip2p_lightning.data.{name}" for name in (_DATA + " " + _MAKERS).split()]
    + [f"ip2p_lightning.curation.{name}" for name in ("Audit", "HubOrigin", "FolderOrigin", "ManifestOrigin")]
    + ["ip2p_lightning.data.prompts.PromptPool", "ip2p_lightning.data.teachers.cartoon.Cartoonizer"]
    + ["ip2p_lightning.data.teachers.GeneratorTeacher"]
    + [
        f"ip2p_lightning.networks.{name}"
        for name in ["load_unet", "Lora", "PixelEditor", "KLAutoencoder", "TAESD", "PixelUnshuffle", *_TEXT]
    ]
    + [
        f"ip2p_lightning.diffusion.{n}"
        for n in ["DiffusionObjective", "BridgeObjective", "DiffusionSampler", "BridgeSampler"]
    ]
    + [
        "ip2p_lightning.training.module.EditDiffusion",
        "ip2p_lightning.training.lr_schedule.LearningRate",
        "lightning.pytorch.Trainer",
    ]
    + [f"ip2p_lightning.training.callbacks.{name}" for name in _CALLBACKS.split()]
    + [f"ip2p_lightning.training.loggers.{name}" for name in _LOGGERS.split()]
    + ["torch.optim.AdamW", "timm.optim.create_optimizer_v2", "bitsandbytes.optim.AdamW8bit"]
)


def import_target(name: str, asked: str = "") -> Callable[..., Any]:
    """The class or function that an allowed ``_target_`` names, `asked` for by a key. Raises UserError without it."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        library = str(error.name).partition(".")[0]
        if library in _EXTRAS:
            remedy = f"pip install 'ip2p-lightning[{_EXTRAS[library]}]'"
        elif library == name.partition(".")[0]:
            remedy = f"pip install {library}, or set PYTHONPATH to where it is"
        else:
            raise
        raise UserError(f"{asked or name} needs {library}: {remedy}") from None


def conforms(value: Any, hint: Any) -> bool:
    """Whether a value from YAML fits a type hint; a hint that says nothing about data fits everything."""
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(conforms(value, arg) for arg in args)
    if origin is typing.Annotated:
        return conforms(value, args[0])
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if hint in _SCALARS:
        return _SCALARS[hint](value)
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (not args or all(conforms(v, args[1]) for v in value.values()))
    if inspect.isclass(kind) and issubclass(kind, tuple | Sequence):
        return isinstance(value, list | tuple) and _items_conform(value, kind, args)
    return isinstance(value, Mapping) and "_target_" in value


def class_of(hint: Any) -> type | None:
    """The class that a hint (or one arm of its union) wants built from a ``_target_``; None for data and protocols."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next(filter(None, map(class_of, typing.get_args(hint))), None)
    plain = hint in _SCALARS or hint is Any or not inspect.isclass(hint) or issubclass(hint, Mapping | Sequence)
    return None if plain or getattr(hint, "_is_protocol", False) else hint


_SCALARS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda v: isinstance(v, bool),
    int: lambda v: isinstance(v, int) and not isinstance(v, bool),
    float: lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    str: lambda v: isinstance(v, str),
    Path: lambda v: isinstance(v, str),
    None: lambda v: v is None,
    type(None): lambda v: v is None,
    object: lambda v: True,
}


def _items_conform(value: Sequence[Any], kind: type, args: tuple[Any, ...]) -> bool:
    if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(map(conforms, value, args))
    return not args or all(conforms(item, args[0]) for item in value)


def describe(hint: Any) -> str:
    """A type hint in words a user of YAML knows."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(a) for a in args))
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is typing.Annotated:
        return describe(args[0])
    words = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "text",
        type(None): "null",
        Path: "a path",
    }
    if hint in words:
        return words[hint]
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a mapping"
    if inspect.isclass(kind) and issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
        return "[" + ", ".join(map(describe, args)) + "]"
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        return "a list"
    return f"a {getattr(kind, '__name__', kind)} (a group member)"
