"""Runs jobs on a SLURM cluster as job arrays, submitted by submitit; each job is a process of its own.

The list of an array's folders is written before the array is submitted, under the array's name. So a controller that
died can be restarted at any time: jobs that SLURM still has are found by name and not submitted again.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ip2p_lightning.errors import UserError
from ip2p_lightning.sweeps.job import Job, exclusive, failures_kept, print_state, record_kill
from ip2p_lightning.sweeps.job_table import refuse_shared
from ip2p_lightning.sweeps.local_launcher import LocalLauncher
from ip2p_lightning.sweeps.options import read_options
from ip2p_lightning.sweeps.slurm_commands import sbatch, squeue
from ip2p_lightning.sweeps.slurm_task import RECORD
from ip2p_lightning.system.files import write_json

PREFIX = "ip2p-"
LISTS = ".slurm"  # in the sweep's folder


@dataclass(frozen=True)
class Resources:
    """What each job asks SLURM for; ``conf/hydra/launcher/submitit_slurm.yaml`` explains each."""

    partition: str | list[str] | None = None
    poll: float = 10
    max_requeues: int = 100
    time: int | str = 60
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    gpus_per_node: int | str = 0
    mem_gb: float | None = None
    array_parallelism: int = 256
    signal_delay_s: int = 90
    setup: list[str] = field(default_factory=list)
    srun_args: list[str] = field(default_factory=list)
    sbatch: dict[str, Any] = field(default_factory=dict)


AT_LEAST = {
    **dict.fromkeys(("time", "nodes", "tasks_per_node", "cpus_per_task", "array_parallelism"), 1),
    **dict.fromkeys(("gpus_per_node", "mem_gb", "signal_delay_s", "max_requeues"), 0),
    "poll": 0.1,
}


class SlurmLauncher(LocalLauncher):
    """Submits the incomplete jobs and waits until SLURM has none of them left.

    Raises UserError: a wrong option (see `Resources`), no SLURM or no submitit here, or SLURM refuses the job.
    """

    def __init__(self, **options: Any) -> None:
        self.resources = read_options(Resources, "hydra.launcher", options, AT_LEAST)
        names = self.resources.partition
        self.partitions = names if isinstance(names, list) else [names]
        self.jobs, self.gpus_per_job = self.resources.array_parallelism, 0

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.lists = Path(str(OmegaConf.select(config, "hydra.sweep.dir"))).absolute() / LISTS

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs as `LocalLauncher.run` does; dry runs do not enter the queue."""
        if any(job.dry for job in jobs):
            local = LocalLauncher()
            local.config = self.config
            local.run(jobs)
            return
        refuse_shared(jobs, LocalLauncher.outcomes)
        with exclusive(self.lists):
            waiting = self._begin(jobs)
        self._wait(waiting)
        LocalLauncher.outcomes += jobs

    def _begin(self, jobs: Sequence[Job]) -> dict[str, Job]:
        """Submit what is neither done nor queued; all jobs to wait for, by SLURM's job id."""
        queued = self._queued()
        waiting: dict[str, Job] = {}
        rest = []
        for job in jobs:
            if str(job.folder) in queued:
                waiting[queued[str(job.folder)]] = job
                print(f"[{job.number}] {job.title}: already queued as {queued[str(job.folder)]}")
            elif job.done or not _prepared(job):
                print_state(job)
            else:
                rest.append(job)
        for first, partition in enumerate(self.partitions):
            waiting |= self._submit(partition, rest[first :: len(self.partitions)])
        return waiting

    def _queued(self) -> dict[str, str]:
        """Run folder to SLURM's job id, of all jobs of this sweep that SLURM still has."""
        found = {}
        for line in squeue():
            job_id, name, *_ = line.split("|")
            listing = self.lists / name / "jobs.json"
            if name.startswith(PREFIX) and "_" in job_id and listing.exists():
                entries = json.loads(listing.read_text())["jobs"]
                found[entries[int(job_id.rpartition("_")[2])]["folder"]] = job_id
        return found

    def _submit(self, partition: str | None, jobs: list[Job]) -> dict[str, Job]:
        """Submit jobs as an array; SLURM's job id to job."""
        if not jobs:
            return {}
        name = f"{PREFIX}{uuid.uuid4().hex[:12]}"
        listing = self.lists / name / "jobs.json"
        listing.parent.mkdir(parents=True)
        entries = [{"folder": str(job.folder), "command": job.command} for job in jobs]
        write_json(listing, {"max_requeues": self.resources.max_requeues, "jobs": entries})
        command = [sys.executable, "-P", "-u", "-m", "ip2p_lightning.sweeps.slurm_task", str(listing)]
        array = sbatch(listing.parent, shlex.join(command), len(jobs), self._parameters(name, partition))
        where = f" to {partition}" if partition else ""
        print(f"submitted {len(jobs)} jobs{where} as {array}", flush=True)
        return {f"{array}_{i}": job for i, job in enumerate(jobs)}

    def _parameters(self, name: str, partition: str | None) -> dict[str, Any]:
        asked = self.resources
        chosen = {"partition": partition, "gpus_per_node": asked.gpus_per_node or None}
        if asked.mem_gb:
            chosen["mem"] = f"{int(asked.mem_gb * 1024)}MB"
        same = ("time", "nodes", "cpus_per_task", "array_parallelism", "signal_delay_s", "setup")
        return {
            **{key: value for key, value in chosen.items() if value is not None},
            **{key: getattr(asked, key) for key in same},
            "job_name": name,
            "ntasks_per_node": asked.tasks_per_node,
            # a rank that has saved and left must not have the others killed while rank 0 still writes
            "srun_args": ["--kill-on-bad-exit=0", *asked.srun_args],
            "additional_parameters": {"requeue": True, **asked.sbatch},
            "stderr_to_stdout": True,
            "wckey": None,
        }

    def _wait(self, waiting: dict[str, Job]) -> None:
        """Wait until SLURM has none of `waiting` left; a job missing once may be between two states."""
        missing: set[str] = set()
        warned: set[str] = set()
        while waiting:
            time.sleep(self.resources.poll)
            try:
                states = {line.split("|")[0]: line.split("|")[-1] for line in squeue()}
            except UserError:  # no answer from SLURM's controller says nothing about the jobs
                continue
            gone = set(waiting) - set(states)
            for job_id in gone & missing:
                job = waiting.pop(job_id)
                with failures_kept(job):
                    record = json.loads((job.folder / RECORD).read_text()) if (job.folder / RECORD).exists() else {}
                    job.exit_code = record["exit_code"] if record.get("exit_code") is not None else -9
                    record_kill(job)
                print_state(job)
            missing = gone
            for job_id in {i for i in waiting if "held" in states.get(i, "").lower()} - warned:
                warned.add(job_id)
                print(f"{job_id} is held ({states[job_id]}); free it with: scontrol release {job_id}", flush=True)


def _prepared(job: Job) -> bool:
    """Create the job's folder and remove the record of an earlier attempt; False if that fails."""
    with failures_kept(job):
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / RECORD).unlink(missing_ok=True)
    return not job.failure
