"""Two ranks on this machine: the command's own group, torchrun's, or processes that think they are an srun's."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import SMALL, Process, run

GROUP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
WORDS = [*GROUP, *SMALL[1:], "model=tiny", "task.weights={cartoon: 0}", "trainer.max_steps=4", "save_every=2"]
WORDS += ["log_every=1", "trainer.accumulate_grad_batches=2", "grid_examples=1", "val_every=4", "val_examples=1"]
WORDS += ["loader.eval_draws=1", "timeout=60"]
LIMIT = 300  # seconds
_jobs = itertools.count(1)


def train(folder: Path, *more: str, words=WORDS) -> tuple[int, str]:
    """Exit code and output of a group of two that the command starts itself: 20 s, most of them imports."""
    return run([*words, *more, f"hydra.run.dir={folder}"], folder.parent / "log", LIMIT)


def torchrun(folder: Path, *more: str, options=("--standalone", "--nproc-per-node=2")) -> subprocess.Popen:
    """The same run, launched by torchrun, which says how many ranks there are."""
    words = [word for word in WORDS if not word.startswith("trainer.devices")]
    line = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "ip2p_lightning.cli.train", *words, *more]
    settings = os.environ | {"IP2P_FAULTS": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*line, f"hydra.run.dir={folder}"], env=settings, **pipes)


def task(rank: int, job: str, size: int = 2) -> dict[str, str]:
    """What srun sets for one task of a step on one node."""
    step = {"STEP_NUM_TASKS": str(size), "STEP_NUM_NODES": "1", "STEP_ID": "0", "NODEID": "0", "JOB_ID": job}
    return {f"SLURM_{k}": v for k, v in {**step, "PROCID": str(rank), "LOCALID": str(rank)}.items()}


def step(folder: Path, *more: str, job: str | None = None, words=WORDS) -> list[Process]:
    """The tasks of an srun of two, started: forks of a process that has imported everything."""
    job = job or str(next(_jobs))  # as on a cluster, where no two steps share it
    line = [*words, *more, f"hydra.run.dir={folder}"]
    return [Process(line, folder.parent / f"{folder.name}-{rank}.log", task(rank, job)) for rank in (0, 1)]


def ended(processes: list[Process]) -> tuple[list[int], str]:
    """Exit codes and output of `step`."""
    return [process.wait(LIMIT) for process in processes], "\n".join(process.said() for process in processes)
