"""Sweeps through the real command, small enough for two cores."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ip2p_lightning.cli.inspect import digests
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_status
from tests.support.fault_injection import with_fault

TINY = [
    "model=tiny",
    "task=denoise",
    "loader.size=32",
    "loader.eval_size=32",
    "loader.batch_size=2",
]
SMALL = [*TINY, "trainer=fast", "val_examples=1", "trainer.max_steps=4", "val_every=0", "save_every=2"]
CPU = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
DDP = [*TINY, *CPU, "trainer.accumulate_grad_batches=1", "trainer.max_steps=3", "val_every=0", "save_every=2"]
TRAIN = [sys.executable, "-m", "ip2p_lightning.cli.train"]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more


@contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen]:
    """`start`, for a test that may fail before the process has ended."""
    process = start(folder, *words)
    try:
        yield process
    finally:
        process.kill()


def start(folder: Path, *words: str, command: list[str] | None = None) -> subprocess.Popen:
    """``ip2p-train`` in a process of its own."""
    words, permission = with_fault(list(words))
    line = [*(command or TRAIN), *words, f"hydra.sweep.dir={folder}"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(line, cwd=folder.parent, env=environment(**permission), **streams)


def sweep(folder: Path, *words: str, timeout: float = 900) -> tuple[int, str]:
    """Exit code and output of ``ip2p-train -m``."""
    process = start(folder, "-m", *words)
    try:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    finally:
        process.kill()


def await_that(condition: Callable[[], object], timeout: float = 600) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def runs(folder: Path) -> dict[int, Path]:
    """Seed to run folder."""
    return {read_seed(path): path.parent for path in folder.glob("*/config.json")}


def read_seed(config: Path) -> int:
    return json.loads(config.read_text())["seed"]


def states(folder: Path) -> dict[int, str]:
    return {seed: read_status(path)["state"] for seed, path in sorted(runs(folder).items())}


def digest(folder: Path) -> str:
    return digests(checkpoint.load(checkpoint.checkpoints(folder)[0]))["all"]
