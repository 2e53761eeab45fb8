"""The tasks of an ``srun`` as the ranks of one run: who they are, where they meet, which folder they share."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import UserError
from ip2p_lightning.system.files import write_json
from ip2p_lightning.training.distributed.slurm_environment import nodes, tasks

START = ".start-{token}.json"


def check_strategy(trainer: Mapping[str, Any], parallel: tuple[str, ...]) -> None:
    """Raise UserError where several tasks would each train a run of one process."""
    if trainer.get("strategy", "auto") not in parallel:
        raise UserError(
            f"srun started {tasks()} tasks, but trainer.strategy={trainer.get('strategy', 'auto')} is one process; "
            "use trainer=ddp, or srun --ntasks=1"
        )


def _place(folder: Path) -> Path:
    """Where rank 0 leaves its announcement; no other srun, earlier or later, has the same name for it."""
    names = ("JOB_ID", "STEP_ID", "RESTART_COUNT", "SRUN_COMM_PORT")
    return folder.parent / START.format(token="-".join(os.environ.get(f"SLURM_{name}", "0") for name in names))


def announce(folder: Path, run: Path, checkpoint: str | None) -> None:
    """Rank 0 tells the others which folder it claimed, where it goes on, and where they meet."""
    with socket.socket() as free:  # the kernel's choice, so that jobs side by side never clash
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = "127.0.0.1" if nodes() == 1 else platform.node()
    _meet_at(address, port)
    _tell(folder, {"run": str(run), "checkpoint": checkpoint, "address": address, "port": port})


def conclude(folder: Path, code: int) -> None:
    """Rank 0 has ended: ranks that still wait leave with `code`; those that train have read the announcement."""
    if code == 0 and _place(folder).exists():
        _place(folder).unlink()
    else:
        _tell(folder, {"run": None, "code": code})


def _tell(folder: Path, content: dict[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(START.format(token="*")):  # of steps that were killed
        if time.time() - old.stat().st_mtime > 86_400:
            old.unlink(missing_ok=True)
    write_json(_place(folder), content)


def await_start(folder: Path, timeout: float) -> tuple[Path | None, Any]:
    """The folder and checkpoint that rank 0 announced; None and an exit code where there is nothing to do.

    Raises:
        UserError: no word from rank 0 for `timeout` seconds.
    """
    path = _place(folder)
    for _ in range(int(timeout * 5)):
        if path.exists():
            content = json.loads(path.read_text())
            if content["run"] is None:
                return None, content["code"]
            _meet_at(content["address"], content["port"])
            return Path(content["run"]), content["checkpoint"]
        time.sleep(0.2)
    raise UserError(f"rank 0 did not claim a run's folder within {timeout:g} s ({path} did not appear)")


def _meet_at(address: str, port: int) -> None:
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
