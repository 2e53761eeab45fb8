"""The signals that ask to stop, and the answer to them before there is a run that could be saved."""

from __future__ import annotations

import os
import signal
from typing import Any

from ip2p_lightning.errors import PreemptedError
from ip2p_lightning.refusal import INTERRUPTED, INTERRUPTED_LINE


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
