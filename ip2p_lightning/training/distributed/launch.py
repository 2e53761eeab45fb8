"""A run of several processes on this machine: this one holds the run's folder and starts the ranks.

Each rank is the same command in the environment that torchrun would give it, so that ``trainer.devices=2`` and
``torchrun --nproc-per-node=2`` are the same run. (Lightning's own launcher also repeats the command, but claims its
folder anew, and under a sweep repeats the sweep: Lightning #11300. A sweep's jobs are commands that are no sweep.)
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

from ip2p_lightning.errors import PreemptedError, PrunedError, UserError, outcome, root
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.system.files import write_json
from ip2p_lightning.system.processes import SUPERVISOR
from ip2p_lightning.system.signals import ANOTHER, StopRequest
from ip2p_lightning.training.distributed import rendezvous
from ip2p_lightning.training.distributed.environment import LEADER, leads

STACKS = "stacks-rank{rank}.txt"  # where a rank stood when it had not moved for `timeout` seconds
PASSED_ON = signal.SIGTERM  # what a rank is told, whatever the run was
REASON = "TORCHELASTIC_ERROR_FILE"  # where a rank leaves why it failed; torchrun reads the same file


class RankError(UserError):
    """A rank of the group failed; carries that rank's exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Rank:
    """A rank as the process sees it that started it."""

    number: int
    process: subprocess.Popen[bytes]
    reason_file: Path  # appears when it fails
    ended: float = 0.0  # when it was seen to have ended, in seconds since the epoch
    stopped: bool = False  # it did not end after another rank had failed, and was killed for that

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        code = self.process.poll()
        if code is not None and not self.ended:
            self.ended = time.time()
        return code

    @property
    def failed_at(self) -> float:
        """When: which rank was first shows which was the cause."""
        return self.reason_file.stat().st_mtime if self.reason_file.exists() else self.ended

    @property
    def reason(self) -> str:
        """Why, in a line."""
        if self.reason_file.exists():
            return str(json.loads(self.reason_file.read_text())["message"])
        return f"ended with exit code {self.code}"


def supervise(start: Mapping[str, Any], processes: int, request: StopRequest) -> int:
    """Start the ranks of a run, pass a stop request on to them, wait for them.

    Args:
        start: what `rendezvous.start_of` says to them.
        processes: how many.
        request: what this process's signal handlers write to.

    Returns:
        The last optimizer step.

    Raises:
        PreemptedError: the group was asked to stop and saved.
        PrunedError: its study stopped it.
        RankError: the first rank's failure.
    """
    folder = Path(start["run"])
    for old in folder.glob(STACKS.format(rank="*")):
        old.unlink()
    request.patient = True  # the ranks are told, and this process waits for them
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
        return _judge(ranks, folder, request.received)


def _start(number: int, processes: int, port: int, reason_file: Path) -> Rank:
    ours: dict[str, Any] = {"RANK": number, "LOCAL_RANK": number, "GROUP_RANK": 0, "WORLD_SIZE": processes}
    ours |= {"LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, REASON: reason_file}
    ours[LEADER] = os.getpid()
    ours |= {"TORCHELASTIC_RUN_ID": os.getpid(), "TORCHELASTIC_USE_AGENT_STORE": True}
    ours |= {"PYTHONSAFEPATH": 1}  # no imports from the current folder, also not in a loader's workers
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **{name: str(value) for name, value in ours.items()}}
    environment.pop(SUPERVISOR, None)  # a sweep's controller is this process's, not the rank's
    command = [sys.executable, "-m", "ip2p_lightning.cli.train", *sys.argv[1:]]
    # a session of its own: Ctrl-C comes to this process, which passes it on
    return Rank(number, subprocess.Popen(command, start_new_session=True, env=environment), reason_file)


def _wait(ranks: Sequence[Rank], request: StopRequest) -> None:
    """Until all have ended, or some have not although another failed a while ago."""
    patience = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))  # torchrun's
    told = False
    while running := [rank for rank in ranks if rank.code is None]:
        if request.received and not told:
            told = True
            for rank in running:
                rank.process.send_signal(PASSED_ON)
        failed = [rank.ended for rank in ranks if rank.code]
        if failed and time.time() > min(failed) + patience:
            for rank in running:
                rank.stopped = True
            return
        time.sleep(0.1)


def _judge(ranks: Sequence[Rank], folder: Path, told: signal.Signals | None) -> int:
    """The last step, or what `supervise` raises; `told` is the signal that was passed on."""
    failed = sorted((rank for rank in ranks if rank.code), key=lambda rank: rank.failed_at)
    if not failed:
        return int(read_status(folder)["step"])
    codes, first = {rank.code for rank in failed}, failed[0]
    if codes == {PreemptedError.code} or (told and first.code in (PreemptedError.code, -PASSED_ON)):
        raise PreemptedError(_stop_reason(first, told))  # whoever fails after it lost its partner
    if codes == {PrunedError.code}:
        raise PrunedError(first.reason.partition(": ")[2])
    worded = [rank for rank in failed if (rank.code or 0) > 0 and rank.code != PreemptedError.code]
    killed = [rank for rank in failed if (rank.code or 0) < 0 and not rank.stopped]  # by a user, or for memory
    parts = [f"rank {rank.number} was killed by signal {-(rank.code or 0)}" for rank in killed]
    parts += [f"rank {rank.number} did not answer" for rank in failed if rank.stopped]
    if stood := tell_stacks(folder):
        parts.append(f"{STACKS.format(rank='*')} say where rank {', '.join(map(str, stood))} stood")
    parts += [f"rank {rank.number}: {rank.reason}" for rank in worded[:1]]
    raise RankError("; ".join(parts), int(worded[0].code or 1) if worded else 1)


def _stop_reason(rank: Rank, told: signal.Signals | None) -> str:
    """A rank's reason for stopping, with the signal that the run was `told` in place of the one it was passed on as."""
    if not rank.reason_file.exists():
        return f"{told.name if told else ANOTHER} before the first step; the same command continues"
    reason = rank.reason.partition(": ")[2]
    return reason.replace(PASSED_ON.name, told.name, 1).replace(ANOTHER, told.name, 1) if told else reason


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


def as_rank(action: Callable[[], int]) -> int:
    """Do `action`, and leave for the launcher why it failed; a refusal is worded once, by whoever leads."""
    try:
        return action()
    except BaseException as error:
        if place := os.environ.get(REASON):
            write_json(Path(place), {"message": outcome(error)[1], "timestamp": int(time.time())})
        known = root(error)
        if not leads() and isinstance(known, UserError):
            return known.code
        raise
