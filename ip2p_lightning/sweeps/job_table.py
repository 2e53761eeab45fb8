"""The jobs of a sweep as a table: the overrides in which they differ, their states and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from ip2p_lightning.errors import UserError
from ip2p_lightning.runs.folder import LOG
from ip2p_lightning.sweeps.job import GOOD, Job


def titled(jobs: Sequence[Job]) -> list[Job]:
    """Set each job's title: the overrides that not all jobs share."""
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        job.title = " ".join(word for word in job.overrides if word not in shared) or " ".join(job.overrides)
    return list(jobs)


def refuse_shared(jobs: Sequence[Job], earlier: Sequence[Job]) -> None:
    """Raise UserError where two jobs have the same folder; a job of an `earlier` batch may be run again."""
    first_in: dict[Path, Job] = {}
    for job in titled([*earlier, *jobs]):
        other = first_in.setdefault(job.folder, job)
        if other is job or (other.overrides == job.overrides and other in earlier):
            continue
        if other.overrides == job.overrides:
            raise UserError(f"jobs {other.number} and {job.number} are the same ({job.title}); give each value once")
        raise UserError(
            f"jobs {other.number} ({other.title}) and {job.number} ({job.title}) would share the folder "
            f"{job.folder.name}: a name leaves out keys that may differ when a run goes on, such as keep, and has "
            "_ for characters such as /; name folders by number: 'hydra.sweep.subdir=${hydra.job.num}'"
        )


def table(jobs: Sequence[Job]) -> str:
    """States, overrides, reasons and logs of a sweep's jobs."""
    rows = []
    for job in titled(jobs):
        log = f" (log: {job.folder / LOG})" if job.state not in GOOD and not job.failure else ""
        rows.append((job.number, job.state, job.title, job.reason + log))
    head = ["job", "state", "overrides", "reason"]
    return tabulate(rows, head, tablefmt="plain", disable_numparse=True)
