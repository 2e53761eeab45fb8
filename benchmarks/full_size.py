"""A Stable-Diffusion-1.5-sized model on a CPU: the memory that ``--dry-run`` estimates, and the peak of the real run.

usage: python -m benchmarks.full_size [--work DIR] [--only WORD ...]

Random weights (860 M + 84 M + 123 M parameters; 4.3 GB, left in DIR), two optimizer steps at 256 px, batch 1, fp32,
one thread, through ``ip2p-train``; one line of a table for each set of words.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ip2p_lightning  # noqa: F401  first: it makes torchvision importable
from benchmarks.material import write_checkpoint

WORDS = ["trainer.max_steps=2", "loader.batch_size=1", "loader.size=256", "loader.resize=[256,288]", "task=denoise"]
WORDS += ["trainer=cpu", "val_every=0", "save_every=1000", "log_every=1", "model.ema=0.9999"]
ARMS = {
    "all": [],
    "all, checkpointing": ["model.gradient_checkpointing=true"],
    "adapters": ["unet=sd_lora"],
    "adapters, checkpointing": ["unet=sd_lora", "model.gradient_checkpointing=true"],
}


def main() -> int:
    """Write, estimate, train, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/full_size"))
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    args = parser.parse_args()
    write_checkpoint(args.work / "sd15", "sd15")
    print("| trained | words | estimate, GiB | peak of the process, GiB | CPU s | checkpoint, MB |")
    print("|---|---|---|---|---|---|")
    for name in args.only:
        print(f"| {name} | {_row(args.work, ARMS[name])} |", flush=True)
    return 0


def _row(work: Path, words: list[str]) -> str:
    shutil.rmtree(work / "run", ignore_errors=True)
    train = [sys.executable, "-m", "ip2p_lightning.cli.train", "model=local", f"model.path={work / 'sd15'}"]
    train += [*WORDS, *words, f"hydra.run.dir={work / 'run'}"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    told = subprocess.run([*train, "dry_run=true"], check=True, env=environment, capture_output=True, text=True).stdout
    estimated = re.search(r"memory: about ([\d.]+) GiB", told)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    peak = _peak(subprocess.Popen(train, env=environment, stdout=subprocess.DEVNULL))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    saved = max((work / "run" / "checkpoints").glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
    assert saved.stat().st_mtime > began
    size = saved.stat().st_size / 1e6
    shutil.rmtree(work / "run")
    return f"`{' '.join(words)}` | {estimated[1] if estimated else '?'} | {peak:.1f} | {spent:.0f} | {size:.0f}"


def _peak(process: subprocess.Popen[bytes]) -> float:
    """GiB: the high-water mark of a process, read while it lives (that of all children so far would be the largest)."""
    peak = 0
    while process.poll() is None:
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        except OSError:
            break
        peak = max(peak, int(found[1]) if found else 0)
        time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"ip2p-train ended with exit code {process.returncode}")
    return peak / 2**20


if __name__ == "__main__":
    sys.exit(main())
