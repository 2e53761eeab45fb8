"""What both sides of a comparison work on: random checkpoints in Stable Diffusion's layout, photos, pairs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ip2p_lightning  # noqa: F401  first: it makes torchvision importable
from benchmarks.support.command import DATA

# Widths: Stable Diffusion 1.5's own, half and a quarter of them (heads 40 to 160 wide as there), and less.
SIZES: dict[str, dict[str, Any]] = {
    "small": {"unet": (80, 160, 320, 320), "heads": 2, "groups": 16, "vae": (32, 64, 128, 128), "text": 192},
    "tiny": {"unet": (32, 64, 128, 128), "heads": 1, "groups": 16, "vae": (16, 32, 64, 64), "text": 64},
    "half": {"unet": (160, 320, 640, 640), "heads": 4, "groups": 32, "vae": (64, 128, 256, 256), "text": 384},
    "sd15": {"unet": (320, 640, 1280, 1280), "heads": 8, "groups": 32, "vae": (128, 256, 512, 512), "text": 768},
}


def write_checkpoint(folder: Path, size: str, seed: int = 0) -> Path:
    """A random text-to-image checkpoint of a size; kept where it is there already."""
    from tests.support.sd_checkpoint import write_sd_checkpoint

    if (folder / "model_index.json").exists():
        return folder
    return write_sd_checkpoint(folder, seed=seed, make=lambda: _parts(SIZES[size]))


def write_editor(work: Path, size: str) -> Path:
    """A random InstructPix2Pix checkpoint of a size: that of `write_checkpoint`, widened by weights that are not 0."""
    import torch

    from ip2p_lightning.editing.pipeline import PIPELINE
    from ip2p_lightning.networks.unet import load_unet
    from tests.support.sd_checkpoint import _write_index

    folder = work / f"editor-{size}"
    if (folder / "unet" / "widened").exists():
        return folder
    unet = load_unet(str(write_checkpoint(folder, size)))
    torch.manual_seed(1)
    torch.nn.init.normal_(unet.conv_in.weight.data[:, unet.config.out_channels :], std=0.05)
    unet.save_pretrained(folder / "unet")
    _write_index(folder, PIPELINE)
    (folder / "unet" / "widened").touch()
    return folder


def _parts(size: dict[str, Any]) -> dict[str, Any]:
    """UNet, VAE and text encoder of Stable Diffusion 1.5's architecture at these widths."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.support.sd_checkpoint import _vocabulary

    words, width = len(_vocabulary()), size["text"]
    ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    text = CLIPTextConfig(
        vocab_size=words, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12, projection_dim=width,
        num_attention_heads=max(1, width // 64), max_position_embeddings=77, **ends,
    )  # fmt: skip
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    return {
        "unet": UNet2DConditionModel(
            sample_size=32, block_out_channels=size["unet"], attention_head_dim=size["heads"],
            cross_attention_dim=width, norm_num_groups=size["groups"],
        ),
        "vae": AutoencoderKL(
            block_out_channels=size["vae"], down_block_types=down, up_block_types=up, layers_per_block=2,
            latent_channels=4, norm_num_groups=min(32, size["vae"][0]), scaling_factor=0.18215, sample_size=256,
        ),
        "text_encoder": CLIPTextModel(text),
    }  # fmt: skip


def crops(sides: list[tuple[int, int]]) -> list[Image.Image]:
    """Crops of scikit-image's photos, one of each width and height; a photo that is too small is enlarged before."""
    import skimage.data

    photos = [Image.fromarray(getattr(skimage.data, n)()) for n in ("astronaut", "coffee", "chelsea", "rocket")]
    rng, found = np.random.default_rng(0), []
    for number, (width, height) in enumerate(sides):
        photo = photos[number % len(photos)]
        if photo.width < width or photo.height < height:
            more = 1.3 * max(width, height) / min(photo.size)
            photo = photo.resize((round(more * photo.width), round(more * photo.height)))
        left, top = (int(rng.integers(0, n - m + 1)) for n, m in zip(photo.size, (width, height), strict=True))
        found.append(photo.crop((left, top, left + width, top + height)))
    return found


def write_raw_pairs(root: Path, count: int, side: int, kind: str = "png") -> Path:
    """`count` crops, noisy and clean, as the files input/NAME and target/NAME."""
    rng, how = np.random.default_rng(1), {"quality": 95} if kind == "jpeg" else {"compress_level": 6}
    for number, clean in enumerate(crops([(side, side)] * count)):
        noisy = np.clip(np.asarray(clean) + rng.normal(0, 25, (side, side, 3)), 0, 255).astype(np.uint8)
        for name, image in (("input", Image.fromarray(noisy)), ("target", clean)):
            path = root / name / f"{number:05d}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, **how)
    return root


def write_pairs(folder: Path, count: int, side: int = 256, kind: str = "png") -> Path:
    """Those pairs as ``ip2p-data build`` makes a dataset of them: both sides of a comparison read it."""
    if (folder / "dataset.json").exists():
        return folder
    raw = write_raw_pairs(folder.with_name(f"{folder.name}-raw"), count, side, kind)
    words = ["build", "task=denoise", "source=folder", f"source.root={raw}", "source.val=0", "source.test=0"]
    command = [sys.executable, "-m", DATA, *words, f"out={folder}", "audit.lookalikes=false"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder
