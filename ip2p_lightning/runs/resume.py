"""Whether a folder's run may be continued with a config, and from which checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.config.compose import differences
from ip2p_lightning.config.overrides import is_free, within
from ip2p_lightning.config.quoting import typed
from ip2p_lightning.errors import UserError
from ip2p_lightning.runs.checkpoint import checkpoints, newest_valid
from ip2p_lightning.runs.folder import CONFIG, METRICS, RunFolder, elsewhere, read_config, read_status
from ip2p_lightning.system.files import write_json

SHOWN = 3  # differences that a refusal lists
SPLIT = ["loader.batch_size", "trainer.accumulate_grad_batches", "trainer.devices"]


def split_of(config: Mapping[str, Any], ranks: int) -> list[int]:
    """Examples a micro-batch, micro-batches a step, ranks: an optimizer step sees their product."""
    return [config["loader"]["batch_size"], config["trainer"].get("accumulate_grad_batches", 1), ranks]


def adopt(run: RunFolder, config: Mapping[str, Any], resume: str, allow: list[str], ranks: int = 1) -> str | None:
    """Make the folder this config's, or continue what it holds; how a step is divided may differ, its size may not.

    Returns the checkpoint to continue from, None for a fresh start. Raises UserError, with each key and both values,
    where the folder holds a run with another config.
    """
    stored, newest, old = run.path / CONFIG, None, None
    if stored.exists():
        old = read_config(run.path)
        if checkpoints(run.path) or (run.path / METRICS).exists():  # a start that failed at once may be mended
            split = read_status(run.path).get("split") or split_of(old, ranks)
            _refuse_another_size(split, split_of(config, ranks), run.path, allow)
            _refuse_changes(old, config, run.path, [*allow, *_split_keys(old, config)])
        newest = newest_valid(run.path)
        if newest is not None and resume == "never":
            raise UserError(
                f"{run.path} already holds {newest.name}; resume=auto continues it, "
                f"{elsewhere(run.path)} begins another"
            )
    if old != config:  # a complete run is left as it is
        write_json(stored, config)  # with what was allowed to change
    return str(newest) if newest is not None else None


def is_complete(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the run in `folder` has taken all the steps that `config` asks for."""
    status = read_status(folder)
    return status.get("state") == "complete" and status.get("step", 0) >= config["trainer"]["max_steps"]


def free_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], allow: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """What differs between two configs, except in free keys: key to (old, new)."""
    changed = differences(old, new)
    named = {key for key in changed if is_free(key, allow)}
    left = {k: v for k, v in changed.items() if k not in named and not _copies(k, changed) & named}
    return {k: v for k, v in left.items() if not _copies(k, changed) & left.keys()}  # each change once


# What conf/ fills in from another node: the key of a copy, and of what it repeats.
_TASK = r"task\.(?:tasks\.\w+\.)?"
_COPIES = (
    (rf"{_TASK}(loader\..+|seed)", r"{}"),
    (rf"{_TASK}source\.(.+)", r"data\.{}"),
    (rf"{_TASK}prompts\.(.+)", r"prompts\.\w+\.{}"),
    (r"(?:task|prompts)\..*\b(limit)", r"prompts\.{}"),
    (r"(?:unet|autoencoder|text_encoder)\.(path)", r"model\.{}"),
    (r"text_encoder\.(seed)", r"{}"),
)


def _copies(key: str, changed: Mapping[str, tuple[Any, Any]]) -> set[str]:
    """The changed keys that `key` repeats: loader.workers shows again in task.loader.workers."""
    origins = [origin.format(re.escape(m[1])) for copy, origin in _COPIES if (m := re.fullmatch(copy, key))]
    return {k for k, v in changed.items() if repr(v) == repr(changed[key]) and any(re.fullmatch(o, k) for o in origins)}


def _split_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys that divide a step; shards keep the optimizer's moments under other names, so that they stay shards."""
    sharded = {c["trainer"].get("strategy") == "fsdp2" for c in (old, new)}
    return [*SPLIT, "trainer.strategy"] if len(sharded) == 1 else SPLIT


def _refuse_another_size(old: list[int], new: list[int], folder: Path, allow: list[str]) -> None:
    asked = [key for key, was, now in zip(SPLIT, old, new, strict=True) if was != now and not within(key, allow)]
    if math.prod(old) != math.prod(new) and asked:
        was, now = (f"{' x '.join(map(str, split))} = {math.prod(split)}" for split in (old, new))
        raise UserError(
            f"{folder} holds a run whose steps see {was} examples (loader.batch_size x trainer.accumulate_grad_batches "
            f"x ranks), now they would see {now}; divide {math.prod(old)} in another way, or allow it with "
            f"'resume_allow=[{','.join([*allow, *asked])}]'"
        )


def _refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path, allow: list[str]) -> None:
    changed = free_differences(old, new, allow)
    if changed:
        keys = list(dict.fromkeys(key.partition("[")[0] for key in changed))  # of a list as a whole
        shown = [f"{key}: {str(a)[:40]} -> {str(b)[:40]}" for key, (a, b) in list(changed.items())[:SHOWN]]
        more = [f"and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
        allowed = f"allow it with {typed('resume_allow', keys)}, or " if len(keys) <= SHOWN else ""
        raise UserError(
            f"{folder} holds a run with another config: {'; '.join(shown + more)}; {allowed}begin another run with "
            f"{elsewhere(folder)}"
        )
