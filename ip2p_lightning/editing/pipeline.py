"""Read diffusers' InstructPix2Pix pipeline as an `EditDiffusion`, and write it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.config.quoting import typed
from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.pretrained import is_hub_id
from ip2p_lightning.networks.weights_digest import weight_digest
from ip2p_lightning.system.files import write_json

INDEX = "model_index.json"
ADAPTER = "pytorch_lora_weights.safetensors"
PIPELINE = "StableDiffusionInstructPix2PixPipeline"


def is_pipeline(path: str | Path) -> bool:
    """Whether `path` is a diffusers folder, or reads like a hub id."""
    place = Path(path)
    if place.exists() or (place.parent.name and place.parent.is_dir()):  # runs/dmeo is a typo, not a hub id
        return (place / INDEX).is_file()
    return is_hub_id(str(path))


def open_pipeline(path: str) -> Any:
    """The model of a diffusers InstructPix2Pix checkpoint, with its own scheduler, or with DDIM and a warning.

    Raises UserError for missing weights or no image conditioning, DamagedError for weights that cannot be read.
    """
    from ip2p_lightning.diffusion.noise_schedule import checkpoint_schedule
    from ip2p_lightning.diffusion.samplers import MORE_SCHEDULERS, SCHEDULERS, DiffusionSampler
    from ip2p_lightning.networks.text_encoder import ClipText
    from ip2p_lightning.networks.unet import load_unet
    from ip2p_lightning.training.module import EditDiffusion

    unet = load_unet(path)
    if not unet.conv_in.weight[:, unet.config.out_channels :].any():  # `load_unet` has just added these channels
        raise UserError(
            f"{path} is a text-to-image model without image conditioning; fine-tune it first (ip2p-train model=local "
            f"{typed('model.path', path)}) or give an InstructPix2Pix checkpoint"
        )
    schedule = checkpoint_schedule(path)
    objective, kind = objective_of(schedule, path), schedule.get("_class_name", "DDIMScheduler")
    scheduler: Any = next((name for name, theirs in SCHEDULERS.items() if theirs == kind), kind)
    if scheduler not in (*SCHEDULERS, *MORE_SCHEDULERS):
        warnings.warn(f"{path}: its scheduler, {kind}, is not supported; sampling with DDIM instead", stacklevel=2)
        scheduler = "ddim"
    sampler = DiffusionSampler(scheduler, checkpoint=schedule)
    return EditDiffusion(unet, _autoencoder(path), ClipText(path), objective, sampler, ema=None)


def objective_of(schedule: Mapping[str, Any], path: str) -> Any:
    """The objective of a checkpoint, from its scheduler config. Raises UserError if it is not supported."""
    from ip2p_lightning.config.checkpoint_scheduler import objective_settings
    from ip2p_lightning.diffusion.objective import DiffusionObjective

    return DiffusionObjective(**objective_settings(schedule, path))


def _autoencoder(path: str) -> Any:
    from diffusers import AutoencoderKL

    from ip2p_lightning.networks.autoencoder import TAESD, KLAutoencoder

    try:
        kind = AutoencoderKL.load_config(path, subfolder="vae").get("_class_name")
    except OSError:
        kind = None  # KLAutoencoder reports what is missing
    return TAESD(path, subfolder="vae") if kind == "AutoencoderTiny" else KLAutoencoder(path)


def write_pipeline(module: Any, folder: Path) -> dict[str, Any]:
    """Write all parts of a stock pipeline; returns the digest of its weights, also in ``weights.json``."""
    module.unet.save_pretrained(folder / "unet", safe_serialization=True)
    module.autoencoder.save(folder / "vae")
    module.text_encoder.save(folder)
    _write_scheduler(module, folder)
    write_json(folder / INDEX, _index(module))
    return _write_digest(weights_of(module), folder)


def write_adapter(module: Any, folder: Path) -> dict[str, Any]:
    """Write LoRA adapters for a pipeline's ``load_lora_weights``, and their scheduler; returns the weights' digest.

    Raises as `Lora.adapters`.
    """
    from diffusers import StableDiffusionInstructPix2PixPipeline as Pipeline

    weights, settings = module.unet.lora.adapters(module.unet)
    Pipeline.save_lora_weights(folder, weights, unet_lora_adapter_metadata=settings, weight_name=ADAPTER)
    _write_scheduler(module, folder)
    return _write_digest(weights, folder)


def _write_scheduler(module: Any, folder: Path) -> None:
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler_config(module.sampler, module.objective))


def _write_digest(weights: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    digest = weight_digest(weights)
    write_json(folder / "weights.json", digest)
    return digest


def weights_of(module: Any) -> dict[str, Any]:
    """All tensors of a pipeline, by part and name."""
    parts = {"unet": module.unet, "vae": module.autoencoder.model, "text_encoder": module.text_encoder.model}
    return {f"{part}.{name}": w for part, model in parts.items() for name, w in model.state_dict().items()}


def _index(module: Any) -> dict[str, Any]:
    import diffusers

    from ip2p_lightning.diffusion.samplers import SCHEDULERS

    return {
        "_class_name": PIPELINE,
        "_diffusers_version": diffusers.__version__,
        "requires_safety_checker": False,
        **{part: [None, None] for part in ("feature_extractor", "image_encoder", "safety_checker")},
        "scheduler": ["diffusers", SCHEDULERS[module.sampler.scheduler]],
        "text_encoder": ["transformers", type(module.text_encoder.model).__name__],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", type(module.unet).__name__],
        "vae": ["diffusers", type(module.autoencoder.model).__name__],
    }


def scheduler_config(sampler: Any, objective: Any) -> dict[str, Any]:
    """The settings that every scheduler needs to sample this model, without any class's defaults.

    ``save_pretrained`` also writes defaults (``timestep_spacing``), which then apply to another class of scheduler.
    """
    import diffusers

    from ip2p_lightning.diffusion.samplers import SCHEDULERS

    config: dict[str, Any] = {"_class_name": SCHEDULERS[sampler.scheduler], "_diffusers_version": diffusers.__version__}
    for name in SCHEDULERS:
        built = type(sampler)(**(vars(sampler) | {"scheduler": name})).build(objective).config
        hidden = {*built.get("_use_default_values", ()), "trained_betas"}
        config |= {k: v for k, v in built.items() if k not in hidden and not k.startswith("_")}
    return config
