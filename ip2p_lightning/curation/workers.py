"""Process chunks in several processes, or in this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from ip2p_lightning.curation.shards.chunks import Chunk, Outcome
from ip2p_lightning.errors import DataError
from ip2p_lightning.system.processes import die_with_parent

Process = Callable[[Chunk], Outcome]
_process: Process


def run_chunks(process: Process, chunks: Sequence[Chunk], workers: int) -> Iterator[Outcome]:
    """Process the chunks with `workers` processes (0: in this one); yields outcomes in order of completion.

    Raises DataError: a worker died, probably out of memory; and whatever `process` raises.
    """
    if workers == 0:
        yield from map(process, chunks)
        return
    fork = multiprocessing.get_context("fork")  # workers inherit `process` with its listed sources, at no cost
    with ProcessPoolExecutor(workers, fork, _start_worker, (process, os.getpid())) as pool:
        waiting = iter(chunks)
        running = {pool.submit(_run, chunk) for chunk in islice(waiting, 2 * workers)}
        try:
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
                running |= {pool.submit(_run, chunk) for chunk in islice(waiting, len(finished))}
        except BrokenProcessPool:
            why = "a worker process was killed, probably out of memory: use fewer workers, or lower audit.pixels"
            raise DataError(f"{why}; the same command continues") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(process: Process, parent: int) -> None:
    """Leave Ctrl-C to the parent process, and end when it ends."""
    global _process
    _process = process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(ancestor=parent)


def _run(chunk: Chunk) -> Outcome:
    return _process(chunk)
