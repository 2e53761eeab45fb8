"""One job of a sweep: its command, its folder, its state."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict

from ip2p_lightning.config.compose import plain
from ip2p_lightning.errors import PreemptedError, UserError, outcome
from ip2p_lightning.runs.folder import LOCK, note, read_config, read_status
from ip2p_lightning.runs.metrics_log import final_score
from ip2p_lightning.runs.resume import free_differences
from ip2p_lightning.sweeps.slurm_task import LOG
from ip2p_lightning.system.locks import is_held, try_lock

TURN = ".turn"
GOOD = ("complete", "checked")
ENDED_WELL = (*GOOD, "pruned")
PROGRAMS = {"build": ["ip2p_lightning.cli.data", "build"]}  # by the name of the config; all others train


@dataclass
class Job:
    """A job as a launcher sees it.

    Args:
        number: place in the sweep, from 0.
        overrides: what makes it this job, e.g. ``["seed=1", "prompts=name"]``.
        folder: the run's folder.
        command: arguments of the process that trains it.
        config: its composed config, plain.
        failure: what went wrong around it, where the run itself does not know.
    """

    number: int
    overrides: list[str]
    folder: Path
    command: list[str]
    config: dict[str, Any]
    exit_code: int | None = None
    title: str = ""
    failure: str = ""
    output: str = ""

    @property
    def dry(self) -> bool:
        """Whether it is only checked: it has no folder, and what it prints is its result."""
        return bool(self.config.get("dry_run"))

    @property
    def state(self) -> str:
        """complete, pruned, preempted, failed, running, not started: the run's word; killed, refused: it had none.

        checked: a dry run that found nothing wrong.
        """
        if self.failure:
            return "failed"
        if self.dry:
            return "checked" if self.exit_code == 0 else "not started"
        told = str(self._status().get("state", "not started"))
        if told == "not started" and self.exit_code == PreemptedError.code:  # asked to stop before it had a status
            return "preempted"
        if not self.exit_code:
            return "killed" if told == "running" and self.exit_code is not None else told
        if told == "running" or (told == "not started" and self.exit_code < 0):
            return "killed"
        return "refused" if told in ("not started", "complete") else told

    @property
    def reason(self) -> str:
        """Why it is not complete, in a line."""
        state = self.state
        if state in GOOD or self.failure:
            return self.failure
        if state == "killed" and self.exit_code is not None and self.exit_code < 0:
            return f"killed by signal {-self.exit_code}"
        if state in ("killed", "refused") or not self._status():
            return last_line(_text(self.folder / LOG)) or f"exit code {self.exit_code}"
        return str(self._status().get("reason") or "")

    def _status(self) -> dict[str, Any]:
        try:
            return read_status(self.folder)
        except OSError:  # a file in the folder's place, say: it shows when the job is begun
            return {}

    @property
    def done(self) -> bool:
        """Complete, with the config of this sweep."""
        if self.state != "complete":
            return False
        try:
            return not free_differences(read_config(self.folder), self.config)
        except (OSError, UserError):  # begun again, the run itself says what is wrong with its config
            return False

    @property
    def held(self) -> bool:
        """Whether a live process holds the folder, e.g. one that an earlier controller left behind."""
        return is_held(self.folder / LOCK)


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until no other command is at work on `folder`: the same sweep may have been started twice."""
    folder.mkdir(parents=True, exist_ok=True)
    while (lock := try_lock(folder / TURN)) is None:
        time.sleep(0.5)
    with lock:
        yield


@contextmanager
def contained(job: Job) -> Iterator[None]:
    """What goes wrong around a job is a failure of that job, not of the sweep."""
    try:
        yield
    except (OSError, UserError) as error:
        job.failure = outcome(error)[1]


def tell(job: Job) -> None:
    """A line about a job that has ended, and what a dry run found."""
    print(f"[{job.number}] {job.title}: {job.state}\n{job.output}", end="", flush=True)


def settle(job: Job) -> None:
    """Write into the status of a run that was killed how it ended: it could not do so itself."""
    if job.state == "killed" and not job.held:
        note(job.folder, state="killed", reason=job.reason, exit_code=job.exit_code)


def returned(job: Job) -> JobReturn:
    """A job for Hydra: never an exception, `conclude` judges the sweep."""
    value = final_score(job.folder) if job.state == "complete" else None
    return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=value)


def make_jobs(context: Any, config: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
    """The jobs of a batch, numbered from `first`."""
    return [make_job(context, config, words, number) for number, words in enumerate(job_overrides, start=first)]


def make_job(context: Any, config: Any, overrides: Sequence[str], number: int) -> Job:
    """Compose one job of a sweep and word its command."""
    sweep = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(sweep):
        sweep.hydra.job.id = sweep.hydra.job.num = number
    folder = Path(str(OmegaConf.select(sweep, "hydra.sweep.dir"))) / str(OmegaConf.select(sweep, "hydra.sweep.subdir"))
    with open_dict(sweep):
        hydra = sweep.pop("hydra")
    folder = folder.absolute()
    program = PROGRAMS.get(hydra.job.config_name, ["ip2p_lightning.cli.train"])
    words = [*_where(hydra), *overrides, f"hydra.run.dir={quoted(str(folder))}", "hydra.mode=RUN"]
    # -P: what lies in the current folder is not to be imported in a library's place
    return Job(number, list(overrides), folder, [sys.executable, "-P", "-m", *program, *words], plain(sweep))


def quoted(text: str) -> str:
    """`text` as a value in Hydra's grammar, whatever characters are in it."""
    return QuotedString(text.replace("${", "\\${"), Quote.single).with_quotes()


def _where(hydra: Any) -> list[str]:
    """The config's name, and the folder it was read from where that is not ours."""
    words = ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            words += ["--config-dir", str(source.path)]
    return words


def _text(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except OSError:
        return ""


def last_line(text: str) -> str:
    """The last refusal in what a job printed, or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [""])[-1][:300]
