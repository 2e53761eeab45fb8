"""The classes and functions that a config may name as ``_target_``."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ip2p_lightning.errors import SecurityError, UserError

_EXTRAS = {"wandb": "wandb", "mlflow": "mlflow", "bitsandbytes": "gpu"}  # library to the extra that brings it

_OURS = {  # module to names
    "data.dataloader": "Loader",
    "data.datamodules": """MixtureDataModule EditDataModule CartoonDataModule DerainDataModule DenoiseDataModule
LowLightDataModule DeblurDataModule""",
    "data.prompts": "PromptPool",
    "data.sources.photos": "Photos",
    "data.sources.folder": "Folder",
    "data.sources.manifest": "Manifest",
    "data.sources.hub": "HubDataset",
    "data.sources.built": "Built",
    "data.degradations.noise": "GaussianNoise PoissonGaussianNoise SensorNoise",
    "data.degradations.rain": "Rain",
    "data.degradations.low_light": "LowLight",
    "data.teachers.cartoon": "Cartoonizer",
    "data.teachers.generator": "GeneratorTeacher",
    "curation.audit.policy": "Audit",
    "curation.origins.hub": "HubOrigin",
    "curation.origins.folder_layout": "FolderOrigin",
    "curation.origins.manifest": "ManifestOrigin",
    "networks.unet": "load_unet",
    "networks.lora": "Lora",
    "networks.pixel_unet": "PixelEditor",
    "networks.autoencoder": "KLAutoencoder TAESD PixelUnshuffle",
    "networks.text_encoder": "ClipText",
    "networks.projected_text": "StaticText SentenceText",
    "diffusion.objective": "DiffusionObjective",
    "diffusion.bridge": "BridgeObjective",
    "diffusion.samplers": "DiffusionSampler BridgeSampler",
    "training.module": "EditDiffusion",
    "training.lr_schedule": "LearningRate",
    "training.callbacks.progress": "Progress",
    "training.callbacks.image_grids": "ImageGrids",
    "training.callbacks.sample_log": "SampleLog",
    "training.callbacks.profiler": "Profile",
    "training.loggers.tensorboard": "TensorBoard",
    "training.loggers.wandb": "Wandb",
    "training.loggers.mlflow": "Mlflow",
}
_THEIRS = """lightning.pytorch.Trainer torch.optim.AdamW timm.optim.create_optimizer_v2
bitsandbytes.optim.AdamW8bit"""

# Exact names, no prefixes: a prefix such as `torch.` would let a config reach torch.load or torch.hub.
ALLOWED_TARGETS = frozenset(_THEIRS.split()) | {
    f"ip2p_lightning.{module}.{name}" for module, names in _OURS.items() for name in names.split()
}


def import_target(name: str, asked: str = "") -> Callable[..., Any]:
    """The class or function of an allowed ``_target_``; `asked` is its key. Raises UserError for a missing library."""
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


def built(value: Any, **more: Any) -> Any:
    """A plain value with its nodes as objects, inner ones first; `more` are further arguments of the outermost.

    Hydra's instantiate would do the same, but it also interpolates strings, which may run code in a stored config.
    Raises SecurityError for a class that is not on the list.
    """
    if isinstance(value, list | tuple):
        return [built(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    given = {key: built(item) for key, item in value.items()}
    name = given.pop("_target_", None)
    if name is None:
        return given
    if not isinstance(name, str) or name not in ALLOWED_TARGETS:
        raise SecurityError(f"{name} is not one of the classes a config may name")
    target = import_target(name)
    if given.pop("_partial_", False):
        return functools.partial(target, **given, **more)
    return target(**given, **more)
