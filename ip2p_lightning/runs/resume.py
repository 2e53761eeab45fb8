"""Whether a folder's run may be continued with a config, and from which checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.config.compose import differences
from ip2p_lightning.config.overrides import is_free
from ip2p_lightning.errors import UserError
from ip2p_lightning.runs.checkpoint import checkpoints, newest_intact
from ip2p_lightning.runs.folder import CONFIG, METRICS, RunFolder, read_config, read_status
from ip2p_lightning.system.files import write_json


def adopt(run: RunFolder, config: Mapping[str, Any], resume: str, allow: list[str]) -> str | None:
    """Make the folder this config's, or continue what it holds.

    Returns:
        The checkpoint to continue from, None for a fresh start.

    Raises:
        UserError: the folder holds a run whose config differs; the line names each key, old and new.
    """
    stored = run.path / CONFIG
    if stored.exists():
        old = read_config(run.path)
        if checkpoints(run.path) or (run.path / METRICS).exists():  # a start that failed at once may be mended
            _refuse_changes(old, config, run.path, allow)
        newest = newest_intact(run.path)
        if newest is not None and resume == "never":
            raise UserError(
                f"{run.path} already holds {newest.name}; resume=auto continues it, or choose another hydra.run.dir"
            )
        if newest is not None:
            if old != config:  # what was allowed to change is recorded, and is what the ranks of a group read
                write_json(stored, config)
            return str(newest)
    write_json(stored, config)
    return None


def is_complete(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the run in `folder` has taken all the steps that `config` asks for."""
    status = read_status(folder)
    return status.get("state") == "complete" and status.get("step", 0) >= config["trainer"]["max_steps"]


def free_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], allow: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """What differs between two configs, but for keys that are free to: key to (old, new)."""
    changed = differences(old, new)
    named = {key for key in changed if is_free(key, allow)}
    # loader.workers shows in task.loader.workers and data.root in task.source.root: one change, one name
    twins = {(key.rpartition(".")[2], repr(changed[key])) for key in named}
    left = {k: v for k, v in changed.items() if k not in named and (k.rpartition(".")[2], repr(v)) not in twins}
    own = {(k.rpartition(".")[2], repr(v)) for k, v in left.items() if not k.startswith("task.")}
    return {k: v for k, v in left.items() if not k.startswith("task.") or (k.rpartition(".")[2], repr(v)) not in own}


def _refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path, allow: list[str]) -> None:
    changed = free_differences(old, new, allow)
    if changed:
        told = "; ".join(f"{key}: {a} -> {b}" for key, (a, b) in list(changed.items())[:8])
        keys = ",".join(changed)
        raise UserError(
            f"{folder} holds a run with another config: {told}; allow it with 'resume_allow=[{keys}]' or choose "
            "another hydra.run.dir"
        )
