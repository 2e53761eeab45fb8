"""Chunks done by a few processes, or by this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from ip2p_lightning.curation.audit.examine import Part
from ip2p_lightning.curation.audit.policy import Audit
from ip2p_lightning.curation.shards.chunks import Chunk, Outcome, work
from ip2p_lightning.errors import DataError
from ip2p_lightning.system.processes import die_with_parent


class Task:
    """Does a chunk; what it needs is inherited by forked workers, not sent to them."""

    def __init__(self, folder: Path, parts: Sequence[Part], audit: Audit, count: Callable[[str], int]) -> None:
        self.folder, self.parts, self.audit, self.count = folder, parts, audit, count

    def __call__(self, chunk: Chunk) -> Outcome:
        return work(self.folder, chunk, self.parts[chunk.part], self.audit, self.count)


def outcomes(task: Task, chunks: Sequence[Chunk], workers: int) -> Iterator[Outcome]:
    """Do the chunks with `workers` processes (0: in this one); outcomes as they come, in no order.

    Raises:
        DataError: a worker died, probably of too little memory.
        Whatever `work` raises.
    """
    if workers == 0:
        yield from map(task, chunks)
        return
    fork = multiprocessing.get_context("fork")  # a worker starts in no time, with the sources already listed
    with ProcessPoolExecutor(workers, fork, _begin, (task, os.getpid())) as pool:
        waiting = iter(chunks)
        running = {pool.submit(_do, chunk) for chunk in islice(waiting, 2 * workers)}
        try:
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                running |= {pool.submit(_do, chunk) for chunk in islice(waiting, len(finished))}
        except BrokenProcessPool:
            why = "a worker process was killed, probably for memory: use fewer workers, or lower audit.pixels"
            raise DataError(f"{why}; the same command continues") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_task: Task | None = None


def _begin(task: Task, parent: int) -> None:
    """Make this worker end with its parent, however that ends, and leave Ctrl-C to it."""
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(ancestor=parent)


def _do(chunk: Chunk) -> Outcome:
    assert _task is not None
    return _task(chunk)
