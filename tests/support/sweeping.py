"""Sweeps through the real command, small enough for two cores."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ip2p_lightning.runs.folder import read_status
from tests.support.fault_injection import with_fault
from tests.support.processes import Process, digest

TINY = ["model=tiny", "task=denoise", "loader.size=32", "loader.eval_size=32", "loader.batch_size=2"]
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


def times(folder: Path) -> dict[Path, int]:
    """Each file in a folder, and when it was last written; without Hydra's own file of the sweep."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "multirun.yaml")
    return {path: path.stat().st_mtime_ns for path in files}


def crowd(folder: Path, logs: Path, words: list[str], count: int, timeout: float) -> dict[str, object]:
    """The same command many times at once: what folders the runs have, and whether each has one writer."""
    words = [*SMALL, *words, "log_every=1", f"hydra.run.dir={folder / 'run'}"]
    processes = [Process(words, logs / str(number)) for number in range(count)]
    codes, folders = [process.wait(timeout) for process in processes], sorted(folder.iterdir())
    lines = [len((path / "metrics.jsonl").read_text().splitlines()) for path in folders]
    return {
        "exit codes": dict(Counter(codes)),
        "folders": [path.name for path in folders],
        "states": dict(Counter(read_status(path)["state"] for path in folders)),
        "a writer each": {read_status(path)["pid"] for path in folders} == {process.pid for process in processes},
        "lines logged": dict(Counter(lines)),
        "event files": dict(Counter(len(list(path.glob("events*"))) for path in folders)),
        "different digests": len({digest(path) for path in folders}),
    }
