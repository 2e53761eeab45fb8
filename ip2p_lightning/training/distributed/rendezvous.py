"""Rank 0's announcement to the other ranks: which folder it claimed, where the run goes on, with which config.

Under ``torchrun`` it lies in the launcher's store. The tasks of an ``srun`` have none: there it is a file beside the
run's folder, which also says where they meet.
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

from ip2p_lightning.errors import UserError
from ip2p_lightning.system.files import write_json
from ip2p_lightning.training.distributed.environment import nodes, place

START, KEY = ".start-{token}.json", "ip2p/start"
LEAST_WAIT = 60  # seconds: rank 0 checks the data first, and a short `timeout` is about steps


@contextmanager
def leading(folder: Path) -> Iterator[None]:
    """The other ranks leave with rank 0 where it ends before it could announce the run."""
    code = 0
    try:
        yield
    except BaseException as error:
        code = getattr(error, "code", 1)
        raise
    finally:
        if place() != "single":
            _conclude(folder, code if isinstance(code, int) else 1)


def start_of(run: Path, checkpoint: str | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """What all ranks are told."""
    return {"run": str(run), "checkpoint": checkpoint, "config": dict(config)}


def announce(folder: Path, start: Mapping[str, Any]) -> None:
    """Rank 0 tells the others."""
    if place() == "srun":
        with socket.socket() as free:  # the kernel's choice, so that jobs side by side never clash
            free.bind(("", 0))
            port = free.getsockname()[1]
        meeting = {"MASTER_ADDR": "127.0.0.1" if nodes() == 1 else platform.node(), "MASTER_PORT": str(port)}
        os.environ.update(meeting)
        start = {**start, "meeting": meeting}
    _tell(folder, start)


def host(start: Mapping[str, Any]) -> Any:
    """A store on this machine, with the announcement in it, for ranks that this process starts."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.set(_key(), json.dumps(start))
    return store


def await_start(folder: Path, timeout: float) -> dict[str, Any]:
    """What rank 0 announced; ``run`` is None, and ``code`` an exit code, where there is nothing to do.

    Raises:
        UserError: no word from rank 0 for `timeout` seconds.
    """
    timeout = max(timeout, LEAST_WAIT)
    for _ in range(int(timeout * 5)):
        if told := _told(folder):
            os.environ.update(told.get("meeting", {}))
            return told
        time.sleep(0.2)
    raise UserError(f"rank 0 did not claim a run's folder within {timeout:g} s ({folder})")


def _conclude(folder: Path, code: int) -> None:
    """Rank 0 has ended: ranks that still wait leave with `code`; those that train have read the announcement."""
    if code or not _told(folder):
        with suppress(RuntimeError):  # the launcher, and its store, may have ended first
            _tell(folder, {"run": None, "code": code})
    elif place() == "srun":
        _path(folder).unlink(missing_ok=True)


def _told(folder: Path) -> dict[str, Any] | None:
    if place() == "torchrun":
        store = _store()
        return json.loads(store.get(_key())) if store.check([_key()]) else None
    return json.loads(_path(folder).read_text()) if _path(folder).exists() else None


def _tell(folder: Path, content: Mapping[str, Any]) -> None:
    if place() == "torchrun":
        _store().set(_key(), json.dumps(content))
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(START.format(token="*")):  # of steps that were killed
        if time.time() - old.stat().st_mtime > 86_400:
            old.unlink(missing_ok=True)
    write_json(_path(folder), content)


def _store() -> Any:
    """The launcher's store, found as torch's own rendezvous finds it."""
    from torch.distributed import rendezvous

    return next(rendezvous("env://", timeout=timedelta(seconds=LEAST_WAIT)))[0]


def _key() -> str:
    """Every restart of the ranks by torchrun has an announcement of its own."""
    return f"{KEY}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _path(folder: Path) -> Path:
    """Where rank 0 of an srun leaves it; no other srun, earlier or later, has the same name for it."""
    names = ("JOB_ID", "STEP_ID", "RESTART_COUNT", "SRUN_COMM_PORT")
    return folder.parent / START.format(token="-".join(os.environ.get(f"SLURM_{name}", "0") for name in names))
