"""A Stable-Diffusion-1.5-sized model on a CPU: the memory that ``--dry-run`` estimates, and the peak of the real run.

``python -m benchmarks.speed.memory [--work DIR] [--only WORD ...] [--size sd15]``: random weights (860 M + 84 M + 123 M
parameters; 4.3 GB, left in DIR), two optimizer steps at 256 px, batch 1, fp32, one thread, through ``ip2p-train``; a
line of a table for each set of words.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.support.clocked import clocked
from benchmarks.support.command import TRAIN, WORK, environment, options
from benchmarks.support.material import write_checkpoint

WORDS = ["trainer.max_steps=2", "loader.batch_size=1", "loader.size=256", "loader.resize=[256,288]", "task=denoise"]
WORDS += ["trainer=cpu", "val_every=0", "save_every=1000", "log_every=1", "model.ema=0.9999"]
ARMS = {
    "all": [],
    "all, checkpointing": ["model.gradient_checkpointing=true"],
    "adapters": ["unet=sd_lora"],
    "adapters, checkpointing": ["unet=sd_lora", "model.gradient_checkpointing=true"],
}


def main() -> None:
    """Write, estimate, train, measure."""
    asked = options(__doc__, work=WORK, only=list(ARMS), size="sd15")
    checkpoint = write_checkpoint(asked.work / asked.size, asked.size)
    print("| trained | words | estimate, GiB | peak of the process, GiB | CPU s to the last step | checkpoint, MB |")
    print("|---|---|---|---|---|---|")
    for name in asked.only:
        print(f"| {name} | {_row(checkpoint, asked.work / 'run-memory', ARMS[name])} |", flush=True)


def _row(checkpoint: Path, run: Path, words: list[str]) -> str:
    shutil.rmtree(run, ignore_errors=True)
    train = [TRAIN, "model=local", f"model.path={checkpoint}", *WORDS, *words, f"hydra.run.dir={run}"]
    dry = [sys.executable, "-m", *train, "dry_run=true"]
    said = subprocess.run(dry, check=True, env=environment(), capture_output=True, text=True).stdout
    estimated = re.search(r"memory: about ([\d.]+) GiB", said)
    _, spent, peak = clocked(train, run.with_suffix(".log"))[-1]
    (saved,) = (run / "checkpoints").glob("*.ckpt")
    cells = [
        estimated[1] if estimated else "?",
        f"{peak / 1024:.1f}",
        f"{spent:.0f}",
        f"{saved.stat().st_size / 1e6:.0f}",
    ]
    shutil.rmtree(run)
    return f"`{' '.join(words)}` | {' | '.join(cells)}"


if __name__ == "__main__":
    main()
