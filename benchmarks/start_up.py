"""From the command to the first optimizer step: ``ip2p-train`` against a bare Lightning script with the same imports.

``python -m benchmarks.start_up [--rounds 5]``

The bare script imports what a run of the embedded model imports (torch, lightning, hydra, diffusers' and transformers'
classes, TensorBoard) and trains one step of a linear layer. The two take turns; CPU seconds until the first step ends,
noted from outside by torch's own step hook (``clocked.py``), minima and medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = """
import torch
import lightning.pytorch as pl
import hydra, omegaconf
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.training_utils import EMAModel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter
import PIL.Image, skimage.data


class Bare(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), fused=True)


import sys
data = torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=4)
pl.Trainer(
    accelerator="cpu", max_steps=1, logger=TensorBoardLogger(sys.argv[1]), enable_progress_bar=False,
    enable_model_summary=False, default_root_dir=sys.argv[1], log_every_n_steps=1, enable_checkpointing=False,
).fit(Bare(), data)
"""
OURS = [
    "ip2p_lightning.cli.train",
    "model=tiny",
    "trainer.max_steps=1",
    "val_every=0",
    "log_every=1",
    "save_every=1000000",
]


def main() -> None:
    """Measure in turn, print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "bare.py").write_text(BARE)
        for number in range(-1, rounds):  # the first pair fills the page cache
            for side, words in (
                ("bare", [str(work / "bare.py"), str(work / "logs")]),
                ("ours", [*OURS, f"hydra.run.dir={work / f'run{number}'}"]),
            ):
                seconds = _first_step(work / "clock.json", words)
                found[side] += [seconds] if number >= 0 else []
    best, middle = ({side: at(times) for side, times in found.items()} for at in (min, statistics.median))
    ratios = {name: round(side["ours"] / side["bare"], 3) for name, side in (("min", best), ("median", middle))}
    print(json.dumps({"benchmark": "start_up", "unit": "CPU s", "best": best, "median": middle, "ratio": ratios}))


def _first_step(clock: Path, words: list[str]) -> float:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.clocked", str(clock), *words]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads(clock.read_text())[0][1]


if __name__ == "__main__":
    main()
