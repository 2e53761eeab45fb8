"""A run of a few steps, through the real command in this process."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ip2p_lightning.runs.metrics_log import read_metrics

SMALL = ["trainer=fast", "trainer.max_steps=2", "val_every=0", "loader.batch_size=2", "loader.size=32"]
SMALL += ["loader.eval_size=64"]


@contextmanager
def handlers_restored() -> Iterator[None]:
    """For what handles signals in this process: afterwards Ctrl-C is pytest's again."""
    from ip2p_lightning.system.signals import stop_signals

    handlers = {number: signal.getsignal(number) for number in (*stop_signals(), signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train_run(folder: Path, *overrides: str) -> Path:
    """``ip2p-train`` in this process; the run's folder."""
    from ip2p_lightning.cli.train import main

    typed = sys.argv
    sys.argv = ["ip2p-train", f"hydra.run.dir={folder}", *SMALL, *overrides]
    try:
        with handlers_restored():
            main()
    except SystemExit as ended:
        assert not ended.code, f"ip2p-train ended with {ended.code}"
    finally:
        sys.argv = typed
    return folder


def logged(run: Path, key: str) -> dict[int, float]:
    """The values of `key` in a run's log by step, the last one of each."""
    return {line["step"]: line[key] for line in read_metrics(run) if key in line}
