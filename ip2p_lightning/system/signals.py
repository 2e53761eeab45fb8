"""The signals that stop a run, before and during training."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from ip2p_lightning.errors import INTERRUPTED, INTERRUPTED_LINE, PreemptedError


def stop_signals() -> tuple[signal.Signals, ...]:
    """SIGTERM: kill, SLURM's preemption, torchrun. SIGUSR1 and 2: SLURM's --signal, submitit's warning.

    SIGHUP: the terminal was closed, unless nohup ignores that. Ctrl-C is handled apart.
    """
    hangup = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, *hangup)


def exit_on_signal() -> None:
    """From now on a stop signal prints one line and exits at once with the code of a preempted run.

    It raises no exception: an import, or a sweep that waits for its jobs, might catch it.
    """
    here = os.getpid()

    def leave(number: int, frame: Any) -> None:
        if os.getpid() != here:  # a forked child dies of the signal itself
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        line = f"error: {signal.Signals(number).name}; the same command begins, or goes on, where this left off"
        line, code = (INTERRUPTED_LINE, INTERRUPTED) if number == signal.SIGINT else (line, PreemptedError.code)
        try:
            os.write(2, f"{line}\n".encode())
        finally:
            os._exit(code)

    for number in (*stop_signals(), signal.SIGINT):
        signal.signal(number, leave)


ANOTHER = "a signal to another rank"  # as the reason for a stop


class InterruptedRunError(PreemptedError):
    """Stopped at once, without saving."""

    code = 130


class StopRequest:
    """Remembers the first signal; a second Ctrl-C stops at once.

    Before training starts (`save_first` is False) a signal raises at once; afterwards the run saves and stops after the
    current optimizer step. Raising anywhere is safe: files are written atomically, and caches skip incomplete records.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.save_first = False
        self.at_once = False

    def listen(self) -> None:
        """Take over the signals (again: Lightning installs handlers of its own when a fit begins)."""
        self._pid, self._terminals = os.getpid(), [fd for fd in (1, 2) if os.isatty(fd)]
        for number in (*stop_signals(), signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        """Raises PreemptedError or InterruptedRunError: nothing to save yet, or the second Ctrl-C."""
        if os.getpid() != self._pid:
            return  # a loader's worker ends with its run, which got the signal as well
        first, before = self.received is None, self.received
        self.received = before or signal.Signals(number)
        _discard_output(self._terminals)
        if first and not self.save_first:
            error = InterruptedRunError if number == signal.SIGINT else PreemptedError
            raise error(f"{self.received.name} before the first step; the same command continues")
        if number == signal.SIGINT:
            if before == signal.SIGINT:
                self.at_once = True
                self.check()
            print("stopping after this step; Ctrl-C again to stop at once", file=sys.stderr)

    def check(self) -> None:
        """Raise InterruptedRunError after a second Ctrl-C. A library may have swallowed the one of the handler."""
        if self.at_once:  # not KeyboardInterrupt: Lightning would turn that into exit code 1
            raise InterruptedRunError("Ctrl-C twice; the same command continues from the last checkpoint")


def _discard_output(terminals: list[int]) -> None:
    """Send output of closed terminals (SIGHUP) to /dev/null: a progress bar must not fail before the save."""
    for fd in terminals:
        if not os.isatty(fd):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, fd)
            os.close(nowhere)
