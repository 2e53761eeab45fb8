"""A process that ends with the one that started it: nothing of a killed run lives on and writes in its folder."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from ip2p_lightning.errors import PreemptedError

SUPERVISOR = "IP2P_SUPERVISOR"  # in a job's environment: the pid of the process it must not outlive
_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(number: int = signal.SIGKILL, ancestor: int | None = None) -> None:
    """Ask the kernel (Linux only) for signal `number` when the parent process ends, however it ends.

    Args:
        number: of the signal.
        ancestor: pid of a process that this one descends from, unless that ended before the kernel was asked: then the
            signal comes at once.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, number)
    if ancestor is not None and ancestor not in _ancestors():
        os.kill(os.getpid(), number)


def _ancestors() -> Iterator[int]:
    """Pids of the parent, its parent and so on; one that ended has left its children to init, or to a reaper."""
    pid = os.getppid()
    while pid:
        yield pid
        try:
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]  # "PID (NAME) STATE PARENT ..."
        except (FileNotFoundError, ProcessLookupError):
            return
        pid = int(after_name.split()[1])


def heed_supervisor() -> None:
    """Stop, saved, when the controller of the sweep is gone: the next controller continues this job.

    Raises:
        PreemptedError: it is gone already.
    """
    pid = os.environ.get(SUPERVISOR)
    if not pid:
        return
    die_with_parent(signal.SIGTERM)
    if sys.platform == "linux" and os.getppid() != int(pid):  # it died before the kernel was asked
        raise PreemptedError("the sweep's controller is gone; the same command continues")
