"""Start the ranks of a run on this machine; the starting process holds the run's folder.

Each rank is the same command in the environment that torchrun sets, so that ``trainer.devices=2`` and ``torchrun
--nproc-per-node=2`` are the same run. Lightning's own launcher would claim a second folder, and repeat a whole sweep
(Lightning #11300).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ip2p_lightning.errors import PreemptedError, PrunedError, UserError, outcome, user_error
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.system.files import write_json
from ip2p_lightning.system.processes import SUPERVISOR
from ip2p_lightning.system.signals import ANOTHER, StopRequest
from ip2p_lightning.training.distributed import rendezvous
from ip2p_lightning.training.distributed.environment import LEADER, leads

STACKS = "stacks-rank{rank}.txt"  # stacks of a rank without a step for `timeout` seconds
FORWARDED = signal.SIGTERM  # sent to the ranks, whichever signal this process received
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # names the file in which a rank writes why it failed; torchrun reads it too


class RankError(UserError):
    """A rank failed; carries its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Rank:
    """A rank, seen by the process that started it."""

    number: int
    process: subprocess.Popen[bytes]
    reason_file: Path  # written when it fails
    ended: float = 0.0  # when its end was noticed, in seconds since the epoch
    stopped: bool = False  # killed because it did not end after another rank's failure

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        code = self.process.poll()
        if code is not None and not self.ended:
            self.ended = time.time()
        return code

    @property
    def failed_at(self) -> float:
        """Seconds since the epoch; the first rank to fail is the cause."""
        return self.reason_file.stat().st_mtime if self.reason_file.exists() else self.ended

    @property
    def reason(self) -> str:
        if self.reason_file.exists():
            return str(json.loads(self.reason_file.read_text())["message"])
        return f"ended with exit code {self.code}"


def supervise(start: Mapping[str, Any], processes: int, request: StopRequest) -> int:
    """Start the ranks of a run, forward a stop request to them, wait for them; returns the last optimizer step.

    `start` is the announcement, as for `rendezvous.announce`; `request` is set by this process's signal handlers.

    Raises:
        PreemptedError: the ranks were asked to stop, and saved.
        PrunedError: the study stopped the run.
        RankError: the first rank's failure.
    """
    folder = Path(start["run"])
    for old in folder.glob(STACKS.format(rank="*")):
        old.unlink()
    request.save_first = True  # a signal does not end this process: it waits for its ranks
    store = rendezvous.host(start)
    with TemporaryDirectory(prefix="ip2p-ranks-") as reasons:
        ranks: list[Rank] = []
        try:
            for number in range(processes):
                ranks.append(_start(number, processes, store.port, Path(reasons) / f"{number}.json"))
            _wait(ranks, request)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.wait()
        return _result(ranks, folder, request.received)


def _start(number: int, processes: int, port: int, reason_file: Path) -> Rank:
    ours: dict[str, Any] = {"RANK": number, "LOCAL_RANK": number, "GROUP_RANK": 0, "WORLD_SIZE": processes}
    ours |= {"LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, ERROR_FILE: reason_file}
    ours |= {LEADER: os.getpid(), "TORCHELASTIC_RUN_ID": os.getpid(), "TORCHELASTIC_USE_AGENT_STORE": True}
    ours["PYTHONSAFEPATH"] = 1  # no imports from the current folder, also not in a loader's workers
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **{name: str(value) for name, value in ours.items()}}
    environment.pop(SUPERVISOR, None)  # a sweep's controller watches this process, not the rank
    command = [sys.executable, "-m", "ip2p_lightning.cli.train", *sys.argv[1:]]
    # a session of its own: Ctrl-C reaches this process only, which forwards it
    return Rank(number, subprocess.Popen(command, start_new_session=True, env=environment), reason_file)


def _wait(ranks: Sequence[Rank], request: StopRequest) -> None:
    """Wait until all ranks have ended, or torchrun's shutdown timeout after the first failure."""
    timeout = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))
    forwarded = False
    while running := [rank for rank in ranks if rank.code is None]:
        if request.received and not forwarded:
            forwarded = True
            for rank in running:
                rank.process.send_signal(FORWARDED)
        failed = [rank.ended for rank in ranks if rank.code]
        if failed and time.time() > min(failed) + timeout:
            for rank in running:
                rank.stopped = True
            return
        time.sleep(0.1)


def _result(ranks: Sequence[Rank], folder: Path, received: signal.Signals | None) -> int:
    """The last step, or what `supervise` raises; `received` is the signal of a stop request."""
    failed = sorted((rank for rank in ranks if rank.code), key=lambda rank: rank.failed_at)
    if not failed:
        return int(read_status(folder)["step"])
    codes, first = {rank.code for rank in failed}, failed[0]
    if codes == {PreemptedError.code} or (received and first.code in (PreemptedError.code, -FORWARDED)):
        raise PreemptedError(_stop_reason(first, received))  # later failures are its consequence
    if codes == {PrunedError.code}:
        raise PrunedError(first.reason.partition(": ")[2])
    raised = [rank for rank in failed if (rank.code or 0) > 0 and rank.code != PreemptedError.code]
    killed = [rank for rank in failed if (rank.code or 0) < 0 and not rank.stopped]  # by a user, or out of memory
    parts = [f"rank {rank.number} was killed by signal {-(rank.code or 0)}" for rank in killed]
    parts += [f"rank {rank.number} did not respond" for rank in failed if rank.stopped]
    if dumped := print_stacks(folder):
        parts.append(f"{STACKS.format(rank='*')} hold the stacks of rank {', '.join(map(str, dumped))}")
    parts += [f"rank {rank.number}: {rank.reason}" for rank in raised[:1]]
    raise RankError("; ".join(parts), int(raised[0].code or 1) if raised else 1)


def _stop_reason(rank: Rank, received: signal.Signals | None) -> str:
    """A rank's reason for stopping, with the signal that this process received in place of the forwarded one."""
    if not rank.reason_file.exists():
        return f"{received.name if received else ANOTHER} before the first step; the same command continues"
    reason = rank.reason.partition(": ")[2]
    return reason.replace(FORWARDED.name, received.name, 1).replace(ANOTHER, received.name, 1) if received else reason


def print_stacks(folder: Path) -> list[int]:
    """Print to stderr the stacks that hanging ranks have dumped; returns these ranks."""
    paths = folder.glob(STACKS.format(rank="*"))
    stacks = {int(path.stem.rpartition("rank")[2]): path.read_text(errors="replace") for path in paths}
    dumped = sorted(rank for rank, text in stacks.items() if text)
    for rank in dumped:
        print(f"stacks of rank {rank}:\n{stacks[rank]}", file=sys.stderr, flush=True)
    return dumped


def as_rank(action: Callable[[], int]) -> int:
    """Run `action` and write for the launcher why it failed; only the leading process prints a UserError."""
    try:
        return action()
    except BaseException as error:
        if path := os.environ.get(ERROR_FILE):
            write_json(Path(path), {"message": outcome(error)[1], "timestamp": int(time.time())})
        known = user_error(error)
        if known is not None and not leads():
            return known.code
        raise
