"""From the command to the first optimizer step: ``ip2p-train`` against a bare Lightning script with the same imports.

``python -m benchmarks.speed.start_up [--rounds 5]``

The bare script imports what a run of the embedded model imports (torch, lightning, hydra, diffusers' and transformers'
classes, TensorBoard) and trains one step of a linear layer. The two take turns; CPU seconds until the first step ends,
noted from outside by torch's own step hook (``support/clocked.py``), minima and medians.
"""

import json
import tempfile
from pathlib import Path

from benchmarks.support.clock import ratios
from benchmarks.support.clocked import clocked
from benchmarks.support.command import TRAIN, options

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
OURS = [TRAIN, "model=tiny", "trainer.max_steps=1", "val_every=0", "log_every=1", "save_every=1000000"]


def main() -> None:
    """Measure in turn, print one line of JSON."""
    rounds = options(__doc__, rounds=5).rounds
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as work:
        bare, log = Path(work) / "bare.py", Path(work) / "log.txt"
        bare.write_text(BARE)
        for number in range(1 + rounds):
            found["ours"].append(clocked([*OURS, f"hydra.run.dir={work}/run{number}"], log)[0][1])
            found["bare"].append(clocked([str(bare), f"{work}/logs"], log)[0][1])
    kept = {side: times[1:] for side, times in found.items()}  # the first pair fills the page cache
    print(json.dumps({"benchmark": "start_up", "CPU s": kept, **ratios(kept["ours"], kept["bare"])}))


if __name__ == "__main__":
    main()
