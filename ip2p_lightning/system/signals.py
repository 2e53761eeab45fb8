"""The signals that ask to stop, and the answer to them before there is a run that could be saved."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from ip2p_lightning.errors import INTERRUPTED, INTERRUPTED_LINE, PreemptedError


def stops() -> tuple[signal.Signals, ...]:
    """SIGTERM: kill, SLURM's preemption, torchrun. SIGUSR1 and 2: SLURM's --signal, submitit's warning.

    SIGHUP: the terminal was closed, unless nohup makes that no reason to stop. Ctrl-C, which a user may mean otherwise
    the second time, is not among them.
    """
    hangup = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, *hangup)


def leave_when_asked() -> None:
    """From now on a signal ends this process like a kill, but with one line and the code that says "continue me".

    No exception: a library that is being imported, or a sweep that waits for its jobs, might hold it up.
    """
    here = os.getpid()

    def leave(number: int, frame: Any) -> None:
        if os.getpid() != here:  # a fork's end is not the command's
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        line = f"error: {signal.Signals(number).name}; the same command begins, or goes on, where this left off"
        line, code = (INTERRUPTED_LINE, INTERRUPTED) if number == signal.SIGINT else (line, PreemptedError.code)
        try:
            os.write(2, f"{line}\n".encode())
        finally:
            os._exit(code)

    for number in (*stops(), signal.SIGINT):
        signal.signal(number, leave)


ANOTHER = "a signal to another rank"


class InterruptedRunError(PreemptedError):
    """Stopped at once, without saving."""

    code = 130


class StopRequest:
    """Remembers the first signal; a second Ctrl-C no longer waits.

    Until somebody is `patient`, who looks at steps' ends, there is nothing to save: the first signal stops at once. It
    raises wherever the process happens to be: files here are whole or absent, and caches skip what is torn.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.patient = False

    def listen(self) -> None:
        """Take over the signals (again: Lightning installs handlers of its own when a fit begins)."""
        self._pid, self._terminals = os.getpid(), [fd for fd in (1, 2) if os.isatty(fd)]
        for number in (*stops(), signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        """Called by Python, between two of its instructions.

        Raises:
            PreemptedError, InterruptedRunError: nobody is patient, or it is the second Ctrl-C.
        """
        if os.getpid() != self._pid:
            return  # a loader's worker: it ends with its run, which got the signal as well
        first, before = self.received is None, self.received
        self.received = before or signal.Signals(number)
        _leave_closed(self._terminals)
        if first and not self.patient:
            error = InterruptedRunError if number == signal.SIGINT else PreemptedError
            raise error(f"{self.received.name} before the first step; the same command continues")
        if number == signal.SIGINT:
            if before == signal.SIGINT:
                # not KeyboardInterrupt: Lightning would turn that into exit code 1
                raise InterruptedRunError("Ctrl-C twice; the same command continues from the last checkpoint")
            print("stopping after this step; Ctrl-C again to stop at once", file=sys.stderr)


def _leave_closed(terminals: list[int]) -> None:
    """Point what was a terminal, and is closed (SIGHUP), to nowhere: a progress bar must not fail before the save."""
    for fd in terminals:
        if not os.isatty(fd):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, fd)
            os.close(nowhere)
