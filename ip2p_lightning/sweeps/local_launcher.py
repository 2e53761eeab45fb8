"""Jobs on this machine, a few at a time, each in a process of its own; GPUs are dealt out."""

from __future__ import annotations

import os
import queue
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from ip2p_lightning.errors import SweepError, UserError
from ip2p_lightning.sweeps.job import (
    ENDED_WELL,
    LOG,
    Job,
    contained,
    last_line,
    make_jobs,
    returned,
    settle,
    tell,
    turn,
)
from ip2p_lightning.sweeps.job_table import refuse_shared, table
from ip2p_lightning.sweeps.options import settings
from ip2p_lightning.system.files import remove_empty
from ip2p_lightning.system.processes import SUPERVISOR


@dataclass(frozen=True)
class Share:
    """Of this machine: jobs at a time; devices of each, dealt out of the visible ones (0 leaves those alone)."""

    jobs: int = 1
    gpus_per_job: int = 0

    AT_LEAST: ClassVar = {"jobs": 1, "gpus_per_job": 0}


class LocalLauncher(Launcher):
    """Runs what is not complete yet, a few jobs at a time; one that fails does not touch the others.

    Args:
        options: see `Share`.

    Raises:
        UserError: a wrong option, or more GPUs asked for than there are.
    """

    remedy = "the same command runs just those again"
    outcomes: list[Job] = []  # noqa: RUF012  all jobs of this process's sweep, over every batch a sweeper launches

    def __init__(self, **options: Any) -> None:
        share = settings(Share, "hydra.launcher", options)
        self.jobs, self.gpus_per_job = share.jobs, share.gpus_per_job

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run what a sweeper words as overrides."""
        jobs = make_jobs(self.context, self.config, job_overrides, initial_job_idx)
        self.run(jobs)
        return [returned(job) for job in jobs]

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs; print a line as each ends. Never raises for a job that fails: `conclude` judges the sweep.

        Raises:
            UserError: two of the sweep's jobs would share a folder.
        """
        refuse_shared(jobs, LocalLauncher.outcomes)
        slots = self._slots()
        with ThreadPoolExecutor(self.jobs) as pool:
            for job in pool.map(lambda job: self._run(job, slots), jobs):
                tell(job)
        LocalLauncher.outcomes += jobs
        if any(job.dry for job in jobs):
            _leave_nothing(Path(str(OmegaConf.select(self.config, "hydra.sweep.dir"))))

    def _slots(self) -> queue.Queue[str | None]:
        slots: queue.Queue[str | None] = queue.Queue()
        if not self.gpus_per_job:
            for _ in range(self.jobs):
                slots.put(None)
            return slots
        gpus = _visible_gpus()
        if len(gpus) < self.jobs * self.gpus_per_job:
            asked = f"hydra.launcher.jobs={self.jobs} x gpus_per_job={self.gpus_per_job}"
            raise UserError(f"{asked} needs more GPUs than the {len(gpus)} here")
        for i in range(self.jobs):
            slots.put(",".join(gpus[i * self.gpus_per_job : (i + 1) * self.gpus_per_job]))
        return slots

    def _run(self, job: Job, slots: queue.Queue[str | None]) -> Job:
        gpus = slots.get()
        try:
            with contained(job):
                (_check if job.dry else _finish)(job, _environment(gpus))
        finally:
            slots.put(gpus)
        return job


def _environment(gpus: str | None) -> dict[str, str]:
    more = {SUPERVISOR: str(os.getpid())}
    return os.environ | more | ({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})


def _check(job: Job, environment: dict[str, str]) -> None:
    """Run a job that is a dry run, without a folder."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(job.command, **streams, text=True, env=environment, check=False)
    job.exit_code, job.output = done.returncode, done.stdout
    if done.returncode:
        job.failure = last_line(done.stdout) or f"exit code {done.returncode}"


def _leave_nothing(folder: Path) -> None:
    """Remove a sweep's folder if all it holds is what Hydra noted there before the jobs."""
    notes = folder / "multirun.yaml"
    if notes.exists() and list(folder.iterdir()) == [notes]:
        notes.unlink()
        remove_empty(folder)


def _finish(job: Job, environment: dict[str, str]) -> None:
    """Run a job that is not done, in its folder."""
    if job.done:
        return
    with turn(job.folder):
        while job.held:  # a job that an earlier controller left behind is still at it: its result is ours
            time.sleep(1)
        if not job.done:
            _train(job, environment)


def _train(job: Job, environment: dict[str, str]) -> None:
    with (job.folder / LOG).open("ab") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        job.exit_code = subprocess.run(job.command, **streams, env=environment, check=False).returncode
    settle(job)


def _visible_gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def conclude() -> None:
    """Print the table of the sweep just run.

    Raises:
        SweepError: some of its jobs are not complete.
    """
    jobs = LocalLauncher.outcomes
    if not jobs:
        return
    print(table(jobs))
    missing = [job for job in jobs if job.state not in ENDED_WELL]
    if missing:
        raise SweepError(f"{len(missing)} of {len(jobs)} jobs are not complete; {LocalLauncher.remedy}")
