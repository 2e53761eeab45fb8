"""Two ranks on this machine: the command's own group, torchrun's, or processes that think they are an srun's."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.fault_injection import with_fault
from tests.support.processes import SMALL, Process, run

GROUP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
WORDS = [*GROUP, *SMALL[1:], "model=tiny", "task.weights={cartoon: 0}", "trainer.max_steps=4", "save_every=2"]
WORDS += ["log_every=1", "trainer.accumulate_grad_batches=2", "val_every=4", "val_examples=1"]
WORDS += ["loader.eval_draws=1", "timeout=60"]
LIMIT = 300  # seconds
_jobs = itertools.count(1)


def train(folder: Path, *more: str, words=WORDS) -> tuple[int, str]:
    """Exit code and output of a group of two that the command starts itself: 20 s, most of them imports."""
    return run([*words, *more, f"hydra.run.dir={folder}"], folder.parent / "log", LIMIT)


def torchrun(folder: Path, *more: str, options=("--standalone", "--nproc-per-node=2")) -> subprocess.Popen:
    """The same run, launched by torchrun, which says how many ranks there are."""
    words, permission = with_fault([*(word for word in WORDS if not word.startswith("trainer.devices")), *more])
    line = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "ip2p_lightning.cli.train", *words]
    settings = os.environ | permission | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
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


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every living process whose command line names `folder`: the ranks of a group."""
    found = [p for p in psutil.process_iter(["cmdline", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]
    return [p for p in found if any(str(folder) in word for word in p.info["cmdline"] or [])]


def validations(folder: Path) -> tuple[dict[str, float], dict[str, float], int]:
    """The last validation that a run of ranks logged, the same by this process alone, and the number of examples."""
    from ip2p_lightning.config import build
    from ip2p_lightning.runs import trained_run as run_opening
    from ip2p_lightning.runs.metrics_log import last_metrics
    from ip2p_lightning.training.callbacks.validation import ValidationScores
    from tests.support.models import bare_trainer

    opened = run_opening.open_run(folder)
    scores, data = ValidationScores(), build.build_data(opened.config)
    data.val_examples = opened.config["val_examples"]
    trainer = bare_trainer(devices=1, callbacks=[scores], inference_mode=False, limit_val_batches=None)
    trainer.validate(opened.module, datamodule=data, verbose=False)
    logged = {key: value for key, value in last_metrics(folder).items() if key.startswith("val/")}
    return logged, scores.latest, len(data.val_dataloader().keys.keys)
