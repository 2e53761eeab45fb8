"""One job of a sweep: its command, its folder, its state."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import open_dict

from ip2p_lightning.config.checkpoint_scheduler import honoured
from ip2p_lightning.config.compose import plain
from ip2p_lightning.config.quoting import quoted
from ip2p_lightning.errors import PreemptedError, UserError, outcome
from ip2p_lightning.runs.folder import LOCK, LOG, last_line, note, read_config, read_status
from ip2p_lightning.runs.metrics_log import final_score
from ip2p_lightning.runs.resume import free_differences
from ip2p_lightning.system.locks import is_held, try_lock

SWEEP_LOCK = ".turn"
GOOD = ("complete", "checked")
ENDED_WELL = (*GOOD, "pruned")
PROGRAMS = {"build": ["ip2p_lightning.cli.data", "build"]}  # by the name of the config; all others train


@dataclass
class Job:
    """A job of a sweep, and the state of its run."""

    number: int  # index in the sweep, from 0
    overrides: list[str]  # e.g. ["seed=1", "prompts=name"]
    folder: Path  # the run's
    command: list[str]  # arguments of its process
    config: dict[str, Any]  # composed, as plain data
    exit_code: int | None = None
    title: str = ""
    failure: str = ""  # an error of the launcher, which the run itself cannot record
    output: str = ""  # of a dry run

    @property
    def dry(self) -> bool:
        """Whether it is a dry run: it has no folder, and its output is its result."""
        return bool(self.config.get("dry_run"))

    @property
    def state(self) -> str:
        """complete, pruned, preempted, failed, running, not started, killed, refused; or checked, for a dry run."""
        if self.failure:
            return "failed"
        if self.dry:
            return "checked" if self.exit_code == 0 else "not started"
        stored = str(self._status().get("state", "not started"))
        if self.exit_code is None:
            return stored
        if stored == "running" or (stored == "not started" and self.exit_code < 0):
            return "killed"
        if stored == "not started" and self.exit_code == PreemptedError.code:  # stopped before it wrote a status
            return "preempted"
        return "refused" if self.exit_code and stored in ("not started", "complete") else stored

    @property
    def reason(self) -> str:
        """Why it is not complete, in one line."""
        state = self.state
        if state in GOOD or self.failure:
            return self.failure
        if state == "killed" and self.exit_code is not None and self.exit_code < 0:
            return f"killed by signal {-self.exit_code}"
        if state in ("killed", "refused") or not self._status():
            with contextlib.suppress(OSError):
                return last_line((self.folder / LOG).read_text(errors="replace")) or f"exit code {self.exit_code}"
            return f"exit code {self.exit_code}"
        return str(self._status().get("reason") or "")

    def _status(self) -> dict[str, Any]:
        try:
            return read_status(self.folder)
        except OSError:  # e.g. a file in the folder's place, which starting the job reports
            return {}

    @property
    def done(self) -> bool:
        """Whether it is complete, with the config of this sweep."""
        if self.state != "complete":
            return False
        try:
            return not free_differences(read_config(self.folder), honoured(self.config))
        except (OSError, UserError):  # started again, the run itself reports what is wrong with its config
            return False

    @property
    def held(self) -> bool:
        """Whether a live process has locked the folder, e.g. one that an earlier controller started."""
        return is_held(self.folder / LOCK)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Wait until no other sweep works on `folder`: the same command may have been started twice."""
    folder.mkdir(parents=True, exist_ok=True)
    while (lock := try_lock(folder / SWEEP_LOCK)) is None:
        time.sleep(0.5)
    with lock:
        yield


@contextmanager
def failures_kept(job: Job) -> Iterator[None]:
    """Record an error as the failure of this job, so that it does not end the sweep."""
    try:
        yield
    except (OSError, UserError) as error:
        job.failure = outcome(error)[1]


def print_state(job: Job) -> None:
    """Print the state of a job that has ended, and the output of a dry run."""
    print(f"[{job.number}] {job.title}: {job.state}\n{job.output}", end="", flush=True)


def record_kill(job: Job) -> None:
    """Record in a killed run's status how it ended, which it could not do itself."""
    if job.state == "killed" and not job.held:
        note(job.folder, state="killed", reason=job.reason, exit_code=job.exit_code)


def job_return(job: Job) -> JobReturn:
    """A job's result for Hydra; never an exception: `conclude` reports failures."""
    value = final_score(job.folder) if job.state == "complete" else None
    return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=value)


def make_job(context: Any, config: Any, overrides: Sequence[str], number: int) -> Job:
    """Compose one job of a sweep and build its command."""
    sweep = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(sweep):
        sweep.hydra.job.id = sweep.hydra.job.num = number
        folder = Path(sweep.hydra.sweep.dir, sweep.hydra.sweep.subdir).absolute()
        hydra = sweep.pop("hydra")
    program = PROGRAMS.get(hydra.job.config_name, ["ip2p_lightning.cli.train"])
    places = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    source = ["--config-name", str(hydra.job.config_name), *(word for p in places for word in ("--config-dir", str(p)))]
    words = [*source, *overrides, f"hydra.run.dir={quoted(str(folder))}", "hydra.mode=RUN"]
    # -P: import nothing from the current folder
    return Job(number, list(overrides), folder, [sys.executable, "-P", "-m", *program, *words], plain(sweep))
