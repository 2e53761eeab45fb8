"""Calls of squeue and sbatch."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import UserError


def squeue() -> list[str]:
    """``id|name|reason`` of each live job of this user, arrays expanded. Raises UserError without an answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%j|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        line = "hydra/launcher=submitit_slurm: there is no SLURM here (no squeue); use hydra/launcher=local"
        raise UserError(line) from None
    except subprocess.TimeoutExpired:
        raise UserError("squeue does not answer") from None
    if done.returncode:
        raise UserError(f"squeue: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
    return done.stdout.splitlines()


def sbatch(folder: Path, command: str, count: int, parameters: dict[str, Any]) -> str:
    """Submit `command` as an array of `count`; its id. (submitit's pickled functions are not used.)"""
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise UserError("hydra/launcher=submitit_slurm needs submitit; pip install 'ip2p-lightning[cluster]'") from None
    try:
        executor = SlurmExecutor(folder)
        executor.update_parameters(**parameters)
        executor.parameters["map_count"] = count
        return str(executor._submit_command(command).job_id)
    except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
        raise UserError(f"sbatch refused the jobs: {str(error).strip().splitlines()[-1]}") from None
