"""A tiny random checkpoint in Stable Diffusion 1.5's folder layout, for tests: same classes and files, no download."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

TEXT_WIDTH = 32
SCHEDULER = {  # word for word what Stable Diffusion 1.5 ships
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def write_sd_checkpoint(
    folder: str | Path, in_channels: int = 4, factor: int = 8, seed: int = 0, make: Callable[[], dict] | None = None
) -> Path:
    """Write model_index.json, unet, vae, text_encoder, tokenizer and scheduler to `folder`; about 1 MB, under 1 s.

    `in_channels` of the UNet is 4 (text to image) or 8 (an editor). `factor` is pixels per latent, a power of two. The
    weights depend on `seed` alone; torch's global generator is left as it was. `make` makes other networks than
    these tiny ones, by their names.
    """
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, part in (make or (lambda: _tiny(in_channels, factor)))().items():
            part.save_pretrained(folder / name)
    _write_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
    _write_index(folder, "StableDiffusionInstructPix2PixPipeline" if in_channels == 8 else "StableDiffusionPipeline")
    return folder


def stock_pipeline(folder: str | Path, scheduler: str = "DDIMScheduler"):
    """diffusers' own InstructPix2Pix pipeline of a folder, silent, with another scheduler of the same settings."""
    import diffusers

    pipeline = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(folder)
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _tiny(in_channels: int, factor: int) -> dict:
    return {"vae": _vae(factor), "unet": _unet(in_channels), "text_encoder": _text_encoder()}


def _unet(in_channels: int):  # heads are 8 and 16 wide
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def _vae(factor: int):
    from diffusers import AutoencoderKL

    blocks = factor.bit_length()
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16, 16, 16)[:blocks],
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8 * factor,
        scaling_factor=0.18215,
    )


def _text_encoder():
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = len(_vocabulary())
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=TEXT_WIDTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def _vocabulary() -> dict[str, int]:
    """CLIP's vocabulary without its merges: each byte as a visible character, alone and at the end of a word."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [256 + i for i in range(256 - len(visible))]
    letters = [chr(c) for c in [*visible, *hidden]]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {word: i for i, word in enumerate(words)}


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary(), ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = "<|endoftext|>"
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _write_index(folder: Path, pipeline: str) -> None:
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
