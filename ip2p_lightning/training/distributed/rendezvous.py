"""Rank 0's announcement to the other ranks: the run's folder, its checkpoint and config.

Under ``torchrun`` it is in the launcher's store, under ``srun`` in a file beside the run's folder, with the main
address.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import UserError, outcome
from ip2p_lightning.system.files import write_json
from ip2p_lightning.training.distributed.environment import nodes, place

START, KEY = ".start-{token}.json", "ip2p/start"
LEAST_WAIT = 60  # seconds: rank 0 checks the data first, which can take longer than `timeout` allows for a step


@contextmanager
def leading(folder: Path) -> Iterator[None]:
    """End the other ranks if rank 0 ends before it has announced the run."""
    code = 0
    try:
        yield
    except BaseException as error:
        code = outcome(error)[0]
        raise
    finally:
        if place() != "single":
            _conclude(folder, code)


def announce(folder: Path, start: Mapping[str, Any]) -> None:
    """Announce the run to the other ranks; called by rank 0."""
    if place() == "srun":
        with socket.socket() as free:  # a free port of the kernel's choice: concurrent jobs do not clash
            free.bind(("", 0))
            port = free.getsockname()[1]
        address = {"MASTER_ADDR": "127.0.0.1" if nodes() == 1 else platform.node(), "MASTER_PORT": str(port)}
        os.environ.update(address)
        start = {**start, "address": address}
    _write(folder, start)


def host(start: Mapping[str, Any]) -> Any:
    """A store on this machine with the announcement, for ranks that this process starts."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.set(_key(), json.dumps(start))
    return store


def await_start(folder: Path, timeout: float) -> dict[str, Any]:
    """Rank 0's announcement; where there is nothing to do, ``run`` is None and ``code`` an exit code.

    Raises UserError after `timeout` seconds without one.
    """
    timeout = max(timeout, LEAST_WAIT)
    for _ in range(int(timeout * 5)):
        if start := _read(folder):
            os.environ.update(start.get("address", {}))
            return start
        time.sleep(0.2)
    raise UserError(f"rank 0 did not claim a run's folder within {timeout:g} s ({folder})")


def _conclude(folder: Path, code: int) -> None:
    """Rank 0 has ended: make ranks that still wait exit with `code`."""
    if code or not _read(folder):
        with suppress(RuntimeError):  # the launcher, and its store, may have ended first
            _write(folder, {"run": None, "code": code})
    elif place() == "srun":
        _path(folder).unlink(missing_ok=True)


def _read(folder: Path) -> dict[str, Any] | None:
    if place() == "torchrun":
        store = _store()
        return json.loads(store.get(_key())) if store.check([_key()]) else None
    return json.loads(_path(folder).read_text()) if _path(folder).exists() else None


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    if place() == "torchrun":
        _store().set(_key(), json.dumps(content))
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(START.format(token="*")):  # left by killed steps
        if time.time() - old.stat().st_mtime > 86_400:
            old.unlink(missing_ok=True)
    write_json(_path(folder), content)


def _store() -> Any:
    """The launcher's store, found as torch's own rendezvous finds it."""
    from torch.distributed import rendezvous

    return next(rendezvous("env://", timeout=timedelta(seconds=LEAST_WAIT)))[0]


def _key() -> str:
    """The store's key; each restart by torchrun has its own."""
    return f"{KEY}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _path(folder: Path) -> Path:
    """The file of rank 0's announcement under srun; the name is unique to the srun."""
    names = ("JOB_ID", "STEP_ID", "RESTART_COUNT", "SRUN_COMM_PORT")
    return folder.parent / START.format(token="-".join(os.environ.get(f"SLURM_{name}", "0") for name in names))
