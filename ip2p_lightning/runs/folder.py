"""A run is a folder: config, status, metrics, checkpoints, TensorBoard's file, pictures."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ip2p_lightning.config.quoting import typed
from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.system.files import read_json, storage_errors, write_json
from ip2p_lightning.system.locks import try_lock

CONFIG, STATUS, METRICS, LOCK = "config.json", "status.json", "metrics.jsonl", ".lock"
LOG = "log.txt"  # a launcher writes a job's output there


@dataclass
class RunFolder:
    """A run's folder, locked by this process: `lock` is the open file that holds the lock."""

    path: Path
    lock: Any = field(default=None, repr=False)

    def write_status(self, state: str, **more: Any) -> None:
        """Replace ``status.json``: state is running, preempted, pruned, failed or complete."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        note(self.path, state=state, pid=os.getpid(), host=platform.node(), updated=now, **more)


def read_status(folder: Path) -> dict[str, Any]:
    """A run's status, {} before its first."""
    try:
        return read_json(Path(folder) / STATUS)
    except FileNotFoundError:
        return {}
    except DamagedError:
        return {"state": "failed", "reason": f"{STATUS} is not readable"}


def note(folder: Path, **more: Any) -> None:
    """Update fields of ``status.json``, leaving the others unchanged."""
    write_json(Path(folder) / STATUS, read_status(folder) | more)


def last_line(text: str) -> str:
    """The last line of a job's output that starts with ``error:``, or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [""])[-1][:300]


def claim(folder: Path) -> RunFolder:
    """Lock `folder` for this process; if a live process has it, a sibling ``folder@2``, ``@3``, ...

    Raises StorageError: the folder cannot be written, or its file system has no locks.
    """
    for number in range(1, 1000):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}@{number}")
        with storage_errors(candidate):
            candidate.mkdir(parents=True, exist_ok=True)
        lock = try_lock(candidate / LOCK)
        if lock is None:
            continue
        # a loader's worker that outlives this process must not keep the lock; weak, so that the lock can be released
        held = weakref.WeakSet([lock])
        os.register_at_fork(after_in_child=lambda held=held: [file.close() for file in held])
        return RunFolder(candidate, lock)
    raise UserError(f"{folder}: 999 live runs have locked it and its siblings; stop some of them")


def elsewhere(folder: Path) -> str:
    """The override that begins another run beside this folder's, to be typed."""
    return typed("hydra.run.dir", f"{folder}-2")


def read_config(folder: Path, limit: int = 4_000_000) -> dict[str, Any]:
    """A run's config. Raises UserError if `folder` is no run, DamagedError if the file is unreadable or too large."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is not a run: it has no {CONFIG}; give the folder that ip2p-train printed")
    if path.stat().st_size > limit:
        raise DamagedError(f"{path} has {path.stat().st_size} bytes, more than {limit}")
    return read_json(path)


def commit() -> str | None:
    """The git commit of the code, with ``+`` where the tree is changed; None outside a checkout."""
    try:
        git = ["git", "-C", str(Path(__file__).parent)]
        describe = [*git, "describe", "--always", "--exclude=*", "--dirty=+"]
        done = subprocess.run(describe, capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        return None


def command() -> str:
    """The command line of this process, as a user would type it."""
    program, package = Path(sys.argv[0]), Path(__file__).parents[1]
    ours = program.suffix == ".py" and program.is_relative_to(package)
    name = f"python -m {'.'.join(program.with_suffix('').relative_to(package.parent).parts)}" if ours else program.name
    return shlex.join([*name.split(), *sys.argv[1:]])
