"""Ends child processes when their parent dies (PR_SET_PDEATHSIG), so that no part of a killed run still writes."""

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
    """Have the kernel (Linux only) send signal `number` when the parent ends; at once if `ancestor` has ended."""
    if _LIBC is None:
        return
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, number)
    if ancestor is not None and ancestor not in _ancestors():
        os.kill(os.getpid(), number)


def _ancestors() -> Iterator[int]:
    """Pids of the parent, its parent and so on; children of a dead process belong to init or a reaper."""
    pid = os.getppid()
    while pid:
        yield pid
        try:
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]  # "PID (NAME) STATE PARENT ..."
        except (FileNotFoundError, ProcessLookupError):
            return
        pid = int(after_name.split()[1])


def stop_with_supervisor() -> None:
    """Save and stop when the sweep's controller ends. Raises PreemptedError where it has ended already."""
    pid = os.environ.get(SUPERVISOR)
    if not pid:
        return
    die_with_parent(signal.SIGTERM)
    if sys.platform == "linux" and os.getppid() != int(pid):  # it died before prctl
        raise PreemptedError("the sweep's controller is gone; the same command continues")
