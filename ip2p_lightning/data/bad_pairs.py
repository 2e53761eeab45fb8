"""Pairs that cannot be read while a run trains: left out up to a budget, replaced by others, and listed.

What replaces a bad pair is a function of its key, and the file with the run says from when on a pair counts as bad: a
run that is continued leaves out what it left out before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import RawArray
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, get_worker_info

from ip2p_lightning.data.batch_sampler import Key
from ip2p_lightning.errors import DamagedError, DataError
from ip2p_lightning.rng import numpy_rng
from ip2p_lightning.system.files import append_line, storage_errors
from ip2p_lightning.system.locks import wait_for_lock

RECORD = "bad.jsonl"
_TRIES = 1000  # replacements of one example: all of them bad, and known to be
_SLOT = 512  # bytes in which a worker says which example it is at

Place = tuple[int, int]
on_example: Callable[[Key], None] | None = None  # for tests of faults: called before an example is read


class BadPairs:
    """The pairs that a run has left out, in a file that its workers and ranks share.

    path: one line of JSON for each: task, id, when it was first left out, and why.
    most: how many there may be; one more ends the run.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most = path, most
        self._known: dict[tuple[str, str], Place] = {}
        self._size = -1

    def __len__(self) -> int:
        return len(self._read())

    def since(self, task: str, name: str) -> Place | None:
        """The (epoch, draw) from which on a pair is left out; None: it is not. Sees what other processes added."""
        return self._read().get((task, name))

    def add(self, key: Key, name: str, error: DataError | DamagedError) -> None:
        """Leave a pair out from `key` on. Raises the error, if that is one pair too many."""
        with storage_errors(self.path), self.path.open("ab") as file:
            wait_for_lock(file)
            known = self._read()
            if (key.task, name) not in known and len(known) >= self.most:
                listed = f"; {len(known)} others were left out before (loader.max_bad={self.most}): {self.path}"
                raise type(error)(f"{error}{listed if known else ''}")
            entry = {"task": key.task, "id": name, "epoch": key.epoch, "draw": key.draw, "reason": str(error)}
            append_line(self.path, entry)

    def lines(self) -> list[dict[str, Any]]:
        """The entries of the file; the last one of a pair counts."""
        entries: dict[tuple[str, str], dict[str, Any]] = {}
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            with suppress(ValueError):  # a line cut short by a kill
                entry = json.loads(line)
                entries[entry["task"], entry["id"]] = entry
        return list(entries.values())

    def _read(self) -> dict[tuple[str, str], Place]:
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self._size:
            self._known = {(e["task"], e["id"]): (e["epoch"], e["draw"]) for e in self.lines()}
            self._size = size
        return self._known


class Watched(Dataset[Any]):
    """The examples of `examples` by key; records which one each worker is reading.

    examples: of several tasks; a bad one is a `DataError` or `DamagedError`.
    workers: processes that will ask.
    bad: records the pairs left out; None: none may be, the error is raised.
    """

    def __init__(self, examples: Any, workers: int) -> None:
        self.examples, self.workers = examples, workers
        self._tasks = getattr(examples, "base", examples)  # through a cache
        self.bad: BadPairs | None = None
        self._at = RawArray("c", max(1, workers) * _SLOT)  # shared with the workers, however they are started

    def __getitem__(self, key: Key) -> Any:
        self._say(f"{key.task} '{self._tasks.id(key)}'")
        if on_example is not None:
            on_example(key)
        example = self._read(key) if self.bad is None else self._allowing(self.bad, key)
        self._say("")
        return example

    def at(self, worker: int) -> str:
        """Task and pair that a worker is reading; "" if there is none."""
        return self._at[worker * _SLOT : (worker + 1) * _SLOT].rstrip(b"\0").decode(errors="replace")

    def _read(self, key: Key) -> Any:
        try:
            return self.examples[key]
        except (DataError, DamagedError) as error:
            raise type(error)(f"{key.task}, pair '{self._tasks.id(key)}': {error}") from None

    def _allowing(self, bad: BadPairs, key: Key) -> Any:
        """The example, or one in its place."""
        wanted = key
        for attempt in range(_TRIES):
            name = self._tasks.id(wanted)
            since = bad.since(wanted.task, name)
            if since is None or (wanted.epoch, wanted.draw) < since:
                try:
                    return self._read(wanted)
                except (DataError, DamagedError) as error:
                    bad.add(wanted, name, error)
            wanted = replacement(key, self._tasks.sizes[key.task], attempt)
        raise DataError(f"{key.task}: of its {self._tasks.sizes[key.task]} pairs none can be read: see {bad.path}")

    def _say(self, text: str) -> None:
        worker = get_worker_info()
        start = (worker.id if worker else 0) * _SLOT
        self._at[start : start + _SLOT] = text.encode()[: _SLOT - 1].ljust(_SLOT, b"\0")


def replacement(key: Key, size: int, attempt: int) -> Key:
    """The `attempt`-th key that takes the place of `key`: another pair of its task, drawn as in no other place."""
    index = int(numpy_rng("replacement", key.task, key.epoch, key.index, key.draw, attempt).integers(size))
    return key._replace(index=index, draw=-1 - key.draw)
