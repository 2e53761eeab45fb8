"""``ip2p-train`` in processes of its own, forked from one that has imported torch: a second each instead of ten.

They are real processes: they can be killed, signalled and waited for, and what they print goes to a file.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ip2p_lightning.errors import PreemptedError
from tests.support.disks import obey_permissions
from tests.support.fault_injection import with_fault

PRELOAD = ["ip2p_lightning", "ip2p_lightning.cli.train", "ip2p_lightning.training.fit", "ip2p_lightning.data"]
PRELOAD += ["ip2p_lightning.training.callbacks.tensorboard_hparams", "ip2p_lightning.networks"]
PRELOAD += ["torch.utils.tensorboard", "diffusers", "diffusers.training_utils", "transformers"]
SMALL = ("trainer=fast", "loader.size=32", "loader.resize=null", "loader.eval_size=32", "loader.batch_size=2")
QUIET = ("val_every=0",)
LIMIT = 120  # seconds after which a process of a test counts as hanging
_forks = multiprocessing.get_context("forkserver")


class Process:
    """One ``ip2p-train WORDS``; stdout and stderr are appended to the file `output`."""

    def __init__(self, words: list[str], output: Path, environment: dict[str, str] | None = None) -> None:
        self.output = Path(output)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._begin = self.output.stat().st_size if self.output.exists() else 0
        words, permission = with_fault(words)
        settings = {**permission, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
        _forks.set_forkserver_preload(PRELOAD)
        self._process = _forks.Process(target=_train, args=(words, str(self.output), settings))
        self._process.start()
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it is still there."""
        if self.alive:
            os.kill(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL to it and to everything it started."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self, limit: float = LIMIT) -> int:
        """Its exit code; minus the signal's number where one ended it."""
        self._process.join(limit)
        if self.alive:
            self.kill_group()
            raise TimeoutError(f"still running after {limit} s:\n{self.said()}")
        return self._process.exitcode

    def said(self) -> str:
        """What it has printed so far."""
        return self.output.read_bytes()[self._begin :].decode(errors="replace") if self.output.exists() else ""

    def until(self, reached: object, limit: float = LIMIT) -> bool:
        """Wait, looking every millisecond, until `reached()`; False if the process ends before."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if reached():
                return True
            if not self.alive:
                return False
            time.sleep(0.001)
        raise TimeoutError(self.said())


def _train(words: list[str], output: str, settings: dict[str, str]) -> None:
    import torch

    multiprocessing.set_start_method("fork", force=True)  # as on a command line: workers are this process's children
    os.setsid()
    file = os.open(output, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update(settings)
    if "NOT_ROOT" in settings:
        obey_permissions()
    torch.set_num_threads(1)
    from ip2p_lightning.cli import train

    sys.argv = [train.__file__, *words]
    train.main()


def in_a_fork(act: Callable[[], object]) -> int:
    """How a fork of this process ends that does `act`: 0, or the exit code of the stop that it raises."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # other tests may have made it a request to stop
        code = 99
        try:
            act()
            code = 0
        except PreemptedError as error:
            code = error.code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(words: list[str], output: Path, limit: float = LIMIT, **environment: str) -> tuple[int, str]:
    """Train to the end; the exit code and what was printed."""
    process = Process(words, output, environment)
    return process.wait(limit), process.said()


def digest(run: Path) -> str:
    """Of everything in the newest checkpoint of a run."""
    from ip2p_lightning.cli import inspect
    from ip2p_lightning.runs import checkpoint

    return inspect.digests(checkpoint.load(checkpoint.checkpoints(run)[0]))["all"]
