"""Fingerprints of a run's data: a run is not continued with changed data."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ip2p_lightning.data.bad_pairs import RECORD, BadPairs
from ip2p_lightning.errors import DataError
from ip2p_lightning.runs.checkpoint import FOLDER
from ip2p_lightning.runs.folder import RunFolder, elsewhere
from ip2p_lightning.system.files import probe, read_json, write_json

DATA = "data.json"
_PART = re.compile(r" \((original|edited)\)$")  # of a pair


def left_out(run: RunFolder, fresh: bool) -> set[str]:
    """Names of the unreadable pairs that the run skips; a fresh run has none."""
    record = run.path / RECORD
    if fresh:
        record.unlink(missing_ok=True)
    return {entry["id"] for entry in BadPairs(record, 0).lines()}


def adopt_data(
    run: RunFolder,
    contents: Mapping[str, Mapping[str, str]],
    fresh: bool,
    allow: Sequence[str],
    bad: Collection[str] = (),
) -> None:
    """Record the fingerprint of the run's data, or compare it with the recorded one.

    Args:
        contents: hashes by ``task/split`` and name.
        fresh: the run begins now; an earlier record is replaced.
        allow: with ``data`` in it, changed data is accepted and recorded.
        bad: pairs that may have changed, because the run skips them.

    Raises DataError that names what changed, StorageError if the folder cannot be written.
    """
    probe(run.path / FOLDER)
    new = {place: _summed(hashes) for place, hashes in contents.items()}
    path = run.path / DATA
    old = read_json(path) if path.exists() else new
    if old != new and not fresh and "data" not in allow:
        places = sorted(old.keys() | new.keys())
        changes = list(filter(None, (_data_change(place, old.get(place), new.get(place), bad) for place in places)))
        if not changes:
            return  # the record stays as the run began
        raise DataError(
            f"{run.path}: the data is not what this run began with: {'; '.join(changes)}; restore it, "
            f"allow it with 'resume_allow=[data]', or begin another run with {elsewhere(run.path)}"
        )
    if old != new or not path.exists():
        write_json(path, new)


def _summed(hashes: Mapping[str, str], limit: int = 2000) -> dict[str, Any]:
    """One hash over all parts, and the parts' own (at most `limit`), so that a change can be named."""
    whole = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    return {"sha256": whole, "count": len(hashes), "parts": dict(hashes) if len(hashes) <= limit else {}}


def _data_change(place: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, bad: Collection[str]) -> str:
    if old == new:
        return ""
    if old is None or new is None:
        return f"{place} {'is new' if old is None else 'is gone'}"
    a, b = old["parts"], new["parts"]
    different = [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    named = [name for name in different if name not in b or name not in a or _PART.sub("", name) not in bad]
    if different and not named:
        return ""
    words = {True: "added", False: "changed"}
    changes = [f"{name} {'removed' if name not in b else words[name not in a]}" for name in named[:3]]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return f"{place}: {', '.join(changes) or 'content changed'}{more} ({old['count']} -> {new['count']} parts)"
