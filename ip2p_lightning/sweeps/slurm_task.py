"""Runs one job of an array on its node, and requeues it after a preemption.

SLURM itself does not requeue a job that saves and exits in time when it is preempted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import PreemptedError
from ip2p_lightning.runs.folder import LOG
from ip2p_lightning.system.files import write_json
from ip2p_lightning.system.processes import SUPERVISOR

RECORD = "slurm.json"  # in a run's folder: job id, partition, restarts, and the exit code once it has ended
STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main() -> int:
    """``python -m ip2p_lightning.sweeps.slurm_task jobs.json``: the entry of SLURM_ARRAY_TASK_ID."""
    listing = json.loads(Path(sys.argv[1]).read_text())
    entry = listing["jobs"][int(os.environ["SLURM_ARRAY_TASK_ID"])]
    signals: list[int] = []
    code = run(entry, signals)
    preempted = code == PreemptedError.code or (signals and code < 0)  # a signal before its handler was set kills it
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    if not (preempted and first and _requeue(listing["max_requeues"])) and first:
        _record(entry, exit_code=code)
    return code if code >= 0 else 128 - code


def run(entry: dict[str, Any], signals: list[int]) -> int:
    """Run the job's command, forward signals to it and append them to `signals`; its exit code."""
    folder = Path(entry["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: Any) -> None:
        signals.append(number)
        if process is not None and process.poll() is None:
            process.send_signal(number)

    for number in STOPS:
        signal.signal(number, pass_on)
    if os.environ.get("SLURM_PROCID", "0") == "0":
        _record(entry, exit_code=None)
    environment = os.environ | {SUPERVISOR: str(os.getpid())}
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(entry["command"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
    if signals:  # while it was being started
        process.send_signal(signals[0])
    return process.wait()


def _job_id() -> str:
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _record(entry: dict[str, Any], exit_code: int | None) -> None:
    record = {"job": _job_id(), "partition": os.environ.get("SLURM_JOB_PARTITION"), "restarts": _restarts()}
    write_json(Path(entry["folder"]) / RECORD, record | {"exit_code": exit_code})


def _requeue(limit: int) -> bool:
    """Requeue this job and wait for SLURM to end this attempt; False if it cannot be requeued.

    The request comes from inside the job: if SLURM preempts it too, the job has ended by then and is requeued once.
    """
    if _restarts() >= limit:
        print(f"{_job_id()}: preempted {_restarts()} times, not queued again (max_requeues)", file=sys.stderr)
        return False
    for wait in (1, 5, 15):
        done = subprocess.run(["scontrol", "requeue", _job_id()], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            for number in STOPS:
                signal.signal(number, signal.SIG_DFL)
            time.sleep(30)  # SLURM ends this attempt meanwhile
            return True
        print(f"scontrol requeue {_job_id()}: {done.stderr.strip()}", file=sys.stderr)
        time.sleep(wait)
    return False


if __name__ == "__main__":
    sys.exit(main())
