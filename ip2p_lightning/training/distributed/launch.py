"""The processes of one run: one, a group that torchrun starts on this machine, or the tasks of an ``srun``.

Nothing here re-runs the command line in its children: a worker reads the run's folder. (Lightning's own launcher
repeats the whole command in each child, which under a sweep repeats the sweep: Lightning #11300.)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import PreemptedError, PrunedError, UserError, outcome
from ip2p_lightning.system.files import write_json
from ip2p_lightning.system.processes import die_with_parent
from ip2p_lightning.system.signals import ANOTHER, StopRequest
from ip2p_lightning.training.distributed.environment import place, rank

OUTCOME = "outcome-rank{rank}.json"
STACKS = "stacks-rank{rank}.txt"  # where a rank stood when it had not moved for `timeout` seconds
PASSED_ON = signal.SIGUSR1  # what a worker is told, whatever the run was


class RankError(UserError):
    """A rank of the group failed; carries that rank's exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def leading(folder: Path) -> Iterator[None]:
    """The other ranks of an ``srun`` leave with rank 0 where it ends before it could announce the run."""
    if place() != "srun":
        yield
        return
    from ip2p_lightning.training.distributed import slurm_rendezvous

    code = 0
    try:
        yield
    except BaseException as error:
        code = getattr(error, "code", 1)
        raise
    finally:
        slurm_rendezvous.conclude(folder, code if isinstance(code, int) else 1)


def supervise(folder: Path, checkpoint: str | None, processes: int, request: StopRequest) -> int:
    """Start a group on this machine, pass a stop request on to it, wait for it.

    Returns:
        The last optimizer step.

    Raises:
        PreemptedError: the group was asked to stop and saved.
        PrunedError: its study stopped it.
        RankError: the first rank's failure.
    """
    for old in (*folder.glob(OUTCOME.format(rank="*")), *folder.glob(STACKS.format(rank="*"))):
        old.unlink()
    request.patient = True  # the ranks are told, and this process waits for them
    # --standalone: a free port on this machine, so that groups side by side never clash
    words = [
        "-m",
        "ip2p_lightning.training.distributed.torchrun",
        "--standalone",
        f"--nproc-per-node={processes}",
        "--max-restarts=0",
    ]
    command = [
        sys.executable,
        *words,
        "-m",
        "ip2p_lightning.training.worker",
        str(folder),
        checkpoint or "",
        str(os.getpid()),
    ]
    safe = os.environ | {"PYTHONSAFEPATH": "1"}  # no imports from the current folder; -P would not reach the workers
    before = partial(_before_torchrun, os.getpid())
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=before, env=safe)
    while process.poll() is None:
        if request.received:
            _tell_workers(process.pid)  # again and again: a worker that still starts up does not listen yet
        time.sleep(0.2)
    return _judge(folder, process.returncode, processes, request.received)


def _before_torchrun(supervisor: int) -> None:
    die_with_parent(ancestor=supervisor)
    signal.signal(PASSED_ON, signal.SIG_IGN)  # workers inherit that: one that still imports is not killed by it


def _tell_workers(torchrun: int) -> None:
    """Signal every worker: torchrun would kill them 30 s after a SIGTERM, in the middle of a large save perhaps."""
    for child in _children(torchrun):
        try:
            os.kill(child, PASSED_ON)
        except ProcessLookupError:
            continue


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in task.read_text().split()]
    return found


def _judge(folder: Path, returncode: int, processes: int, told: signal.Signals | None) -> int:
    """The last step, or what `supervise` raises; `told` is the signal that was passed on."""
    outcomes = []
    for path in folder.glob(OUTCOME.format(rank="*")):
        outcomes.append(json.loads(path.read_text()))
    failed = sorted((o for o in outcomes if o["code"] != 0), key=lambda o: o["time"])
    if failed and told and failed[0]["code"] == PreemptedError.code:  # whoever fails after it lost its partner
        raise PreemptedError(_worded(failed[0], told.name))
    for stopped in (PreemptedError, PrunedError):
        if failed and all(o["code"] == stopped.code for o in failed):
            raise stopped(_worded(failed[0]))
    real = [o for o in failed if o["code"] != PreemptedError.code]
    lost = sorted(set(range(processes)) - {o["rank"] for o in outcomes})  # killed: by a user, for memory, by torchrun
    silent = f"rank {', '.join(map(str, lost))} was killed; " if lost else ""
    stood = tell_stacks(folder)
    silent += f"{STACKS.format(rank='*')} say where rank {', '.join(map(str, stood))} stood; " if stood else ""
    if real:
        raise RankError(f"{silent}rank {real[0]['rank']}: {real[0]['reason']}", real[0]["code"])
    if returncode != 0 or not outcomes:
        raise RankError(f"{silent}torchrun ended with exit code {returncode}", 1)
    return int(outcomes[0]["step"])


def _worded(outcome: Mapping[str, Any], told: str | None = None) -> str:
    """A rank's reason for stopping, with the signal that the run was `told` in place of the one it was passed on as."""
    reason = outcome["reason"].partition(": ")[2]
    for passed in (PASSED_ON.name, ANOTHER) if told else ():
        reason = reason.replace(passed, told, 1)
    return reason


def tell_stacks(folder: Path) -> list[int]:
    """Ranks that wrote down where they stood; their stacks go to stderr, one rank after the other."""
    ranks = []
    for path in sorted(folder.glob(STACKS.format(rank="*"))):
        text = path.read_text(errors="replace")
        if text:
            rank = int(path.stem.rpartition("rank")[2])
            print(f"where rank {rank} stood:\n{text}", file=sys.stderr, flush=True)
            ranks.append(rank)
    return sorted(ranks)


def report(folder: Path, step: int, error: BaseException | None = None) -> None:
    """Leave this rank's outcome for `supervise`."""
    code, reason = outcome(error) if error is not None else (0, "")
    content = {"rank": rank(), "step": step, "code": code, "reason": reason}
    write_json(folder / OUTCOME.format(rank=rank()), content | {"time": time.time()})
