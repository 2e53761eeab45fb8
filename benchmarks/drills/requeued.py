"""Drill 9: what SLURM would do to a job, without SLURM: ``scontrol`` is a script that writes down what it is asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.drills.storm import LONG, losses, recipe, undisturbed
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_status
from tests.support.processes import digest


def requeued(work: Path, seed: int) -> dict[str, object]:
    """Drill 9: USR1, TERM a second later, KILL after 30 s; started again as SLURM would; another run beside it."""
    words = recipe(work, 40)
    wanted, _ = undisturbed(work / "whole", words)
    asked = _fake_scontrol(work)
    first = _start(work, "run", words, restarts=0)
    _await(lambda: checkpoint.checkpoints(work / "run"))
    for number, wait in ((signal.SIGUSR1, 1), (signal.SIGTERM, 29)):
        os.killpg(first.pid, number)
        time.sleep(wait)
    late = first.poll() is None
    if late:
        os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    stopped = read_status(work / "run")
    code = _start(work, "run", words, restarts=1).wait(LONG)
    other = _start(work, "other", [*words, "seed=1"], restarts=0).wait(LONG)
    return {
        "after the signals": f"{stopped['state']}, exit code {stopped['exit_code']}",
        "scontrol was asked": asked.read_text().splitlines(),
        "second attempt: exit code": code,
        "digest equal to the undisturbed run's": digest(work / "run") == wanted,
        "steps redone": sum(len(values) - 1 for values in losses(work / "run").values()),
        "another run in the same folder of runs: exit code, first step logged": [other, min(losses(work / "other"))],
    }


def _fake_scontrol(work: Path) -> Path:
    asked, script = work / "asked", work / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    script.chmod(0o755)
    return asked


def _start(work: Path, name: str, words: list[str], restarts: int) -> subprocess.Popen[bytes]:
    """The job's process on the node, as SLURM starts it."""
    listing = work / f"{name}.json"
    command = [sys.executable, "-m", "ip2p_lightning.cli.train", *words, f"hydra.run.dir={work / name}"]
    jobs = [{"folder": str(work / name), "command": command}]
    listing.write_text(json.dumps({"max_requeues": 9, "jobs": jobs}))
    told = {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "0", "PROCID": "0", "RESTART_COUNT": str(restarts)}
    path = f"{work / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {f"SLURM_{key}": value for key, value in told.items()} | {"PATH": path}
    line = [sys.executable, "-m", "ip2p_lightning.sweeps.slurm_task", str(listing)]
    return subprocess.Popen(line, env=environment, start_new_session=True)


def _await(reached: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not reached() and time.monotonic() < end:
        time.sleep(0.05)
