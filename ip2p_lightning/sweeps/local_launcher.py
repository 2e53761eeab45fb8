"""Runs jobs on this machine, each in a process of its own, a few at a time; divides the GPUs among them."""

from __future__ import annotations

import os
import queue
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from ip2p_lightning.errors import SweepError, UserError
from ip2p_lightning.runs.folder import LOG, last_line
from ip2p_lightning.sweeps.job import (
    ENDED_WELL,
    Job,
    exclusive,
    failures_kept,
    job_return,
    make_job,
    print_state,
    record_kill,
)
from ip2p_lightning.sweeps.job_table import refuse_shared, table
from ip2p_lightning.sweeps.options import read_options
from ip2p_lightning.system.files import remove_empty
from ip2p_lightning.system.processes import SUPERVISOR


@dataclass(frozen=True)
class LocalOptions:
    """Jobs at a time, and GPUs of each out of the visible ones (0: each job sees all of them)."""

    jobs: int = 1
    gpus_per_job: int = 0


class LocalLauncher(Launcher):
    """Runs the incomplete jobs, a few at a time; a job that fails does not affect the others.

    Raises UserError: a wrong option (see `LocalOptions`), or more GPUs asked for than there are.
    """

    remedy = "the same command runs just those again"
    outcomes: list[Job] = []  # noqa: RUF012  all jobs of this process's sweep, over all batches

    def __init__(self, **options: Any) -> None:
        chosen = read_options(LocalOptions, "hydra.launcher", options, {"jobs": 1, "gpus_per_job": 0})
        self.jobs, self.gpus_per_job = chosen.jobs, chosen.gpus_per_job

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of these overrides, numbered from `initial_job_idx`."""
        numbered = enumerate(job_overrides, start=initial_job_idx)
        jobs = [make_job(self.context, self.config, words, number) for number, words in numbered]
        self.run(jobs)
        return [job_return(job) for job in jobs]

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs; print a line as each ends. A job that fails raises nothing: `conclude` reports it.

        Raises UserError: two of the sweep's jobs would share a folder.
        """
        refuse_shared(jobs, LocalLauncher.outcomes)
        slots = self._slots()
        with ThreadPoolExecutor(self.jobs) as pool:
            for job in pool.map(lambda job: self._run(job, slots), jobs):
                print_state(job)
        LocalLauncher.outcomes += jobs
        if any(job.dry for job in jobs):
            _remove_unused(Path(str(OmegaConf.select(self.config, "hydra.sweep.dir"))))

    def _slots(self) -> queue.Queue[str | None]:
        """CUDA_VISIBLE_DEVICES of each job that may run at once; None leaves it as it is."""
        each = self.gpus_per_job
        gpus = _visible_gpus() if each else []
        if len(gpus) < self.jobs * each:
            asked = f"hydra.launcher.jobs={self.jobs} x gpus_per_job={each}"
            raise UserError(f"{asked} needs more GPUs than the {len(gpus)} here")
        slots: queue.Queue[str | None] = queue.Queue()
        for i in range(self.jobs):
            slots.put(",".join(gpus[i * each : (i + 1) * each]) if each else None)
        return slots

    def _run(self, job: Job, slots: queue.Queue[str | None]) -> Job:
        gpus = slots.get()
        environment = os.environ | {SUPERVISOR: str(os.getpid())}
        try:
            with failures_kept(job):
                (_check if job.dry else _finish)(job, environment | ({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}))
        finally:
            slots.put(gpus)
        return job


def _run_command(job: Job, environment: dict[str, str], output: Any) -> str:
    """Run a job's command with its output sent to `output`; what was piped."""
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
    done = subprocess.run(job.command, **streams, text=True, env=environment, check=False)
    job.exit_code = done.returncode
    return done.stdout or ""


def _check(job: Job, environment: dict[str, str]) -> None:
    """Run a job that is a dry run, without a folder."""
    job.output = _run_command(job, environment, subprocess.PIPE)
    if job.exit_code:
        job.failure = last_line(job.output) or f"exit code {job.exit_code}"


def _remove_unused(folder: Path) -> None:
    """Remove a sweep's folder that holds nothing but Hydra's ``multirun.yaml``."""
    notes = folder / "multirun.yaml"
    if notes.exists() and list(folder.iterdir()) == [notes]:
        notes.unlink()
        remove_empty(folder)


def _finish(job: Job, environment: dict[str, str]) -> None:
    """Run an incomplete job in its folder."""
    if job.done:
        return
    with exclusive(job.folder):
        while job.held:  # a process that an earlier controller started is still running this job
            time.sleep(1)
        if not job.done:
            with (job.folder / LOG).open("ab") as log:
                _run_command(job, environment, log)
            record_kill(job)


def _visible_gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def conclude() -> None:
    """Print the table of the sweep's jobs. Raises SweepError if some are not complete."""
    jobs = LocalLauncher.outcomes
    if not jobs:
        return
    print(table(jobs))
    missing = [job for job in jobs if job.state not in ENDED_WELL]
    if missing:
        raise SweepError(f"{len(missing)} of {len(jobs)} jobs are not complete; {LocalLauncher.remedy}")
