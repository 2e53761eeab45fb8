"""Does a Stable-Diffusion-1.5-sized model train on a CPU, and in how much memory?

usage: python -m benchmarks.full_size [--work DIR] [WORD=VALUE ...]

Writes a random folder of SD 1.5's sizes (860 M + 84 M + 123 M parameters, 4.3 GB; removed afterwards), trains it
for two optimizer steps at 256 px, batch 1, fp32, with AdamW and EMA through ``ip2p-train``, prints time and memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import ip2p_lightning  # noqa: F401  first: it makes torchvision importable

LIMIT = 20.0  # GB
WORDS = ["trainer.max_steps=2", "loader.batch_size=1", "loader.size=256", "loader.resize=[256,288]", "task=denoise"]
WORDS += ["trainer=cpu", "val_every=0", "save_every=1000", "log_every=1", "model.ema=0.9999"]


def write(folder: Path) -> None:
    """A random checkpoint with the default (SD 1.5) widths of diffusers' and transformers' own classes."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from sd_checkpoint import write_sd_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel

    write_sd_checkpoint(folder)  # scheduler, tokenizer and index; the networks are replaced
    vocabulary = CLIPTextModel.from_pretrained(folder / "text_encoder").config.vocab_size
    torch.manual_seed(0)
    UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).save_pretrained(folder / "unet")
    blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(3, 3, *blocks, (128, 256, 512, 512), layers_per_block=2, sample_size=512)
    vae.save_pretrained(folder / "vae")
    size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    CLIPTextModel(CLIPTextConfig(vocab_size=vocabulary, **size, **ends)).save_pretrained(folder / "text_encoder")


def main() -> int:
    """Write, train, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/full_size"))
    parser.add_argument("words", nargs="*", metavar="WORD=VALUE", help="more for ip2p-train")
    args = parser.parse_args()
    work = args.work
    shutil.rmtree(work, ignore_errors=True)
    writer = [sys.executable, "-c", f"from benchmarks.full_size import *; write(Path({str(work / 'sd')!r}))"]
    subprocess.run(writer, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    started = time.perf_counter()
    words = ["model=local", f"model.path={work / 'sd'}", *WORDS, *args.words]
    train = [sys.executable, "-m", "ip2p_lightning.train", *words, f"hydra.run.dir={work / 'run'}"]
    subprocess.run([*train, "dry_run=true"], check=True)
    done = subprocess.run(train)
    seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    more = "" if peak > before else " at most"
    print(f"exit code {done.returncode}, {seconds:.0f} s, peak memory{more} {peak / 2**20:.1f} GB (limit {LIMIT:g})")
    shutil.rmtree(work)
    return int(done.returncode != 0 or peak / 2**20 >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
