"""Splits in which no photo is twice: grouped by content, scene and looks, then divided by the groups' hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ip2p_lightning.curation.audit.perceptual_hash import Likeness, alike
from ip2p_lightning.data.sources.splits import Groups, split_groups

_STRENGTH = {"train": 0, "val": 1, "test": 2}  # of two splits with one photo, the test set keeps it


@dataclass(slots=True)
class Entry:
    """What the division needs to know of an accepted candidate."""

    id: str
    task: str
    published: str | None
    scene: str | None
    prints: tuple[str, ...]
    likeness: Likeness
    bytes: int
    chunk: int = 0
    split: str = ""
    """Decided here; "" for a leak that is refused."""
    source_id: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Fractions:
    """Of a task's pairs without a published split."""

    val: float
    test: float


def divide(entries: Sequence[Entry], fractions: Mapping[str, Fractions], lookalikes: bool) -> int:
    """Give every entry its `split` and `source_id`; one that would leak gets no split but a `reason`.

    A group's photo stays in one split. Where published splits disagree, test keeps it before val, and val before
    train; entries without a published split move, published ones are refused.

    Args:
        entries: in order of id.
        fractions: per task.
        lookalikes: whether nearly equal photos are one group.

    Returns:
        How many pairs of lookalikes were found.
    """
    groups, loose = Groups(), _divisible(entries, fractions)
    why = {}
    _join_equal(groups, ((("print", p), i) for i, entry in enumerate(entries) for p in entry.prints))
    _join_equal(groups, ((("scene", e.task, e.scene), i) for i, e in enumerate(entries) if e.scene and loose[e.task]))
    exact = [groups.root(i) for i in range(len(entries))]
    found = 0
    for i, j in alike([e.likeness for e in entries]) if lookalikes else ():
        found += exact[i] != exact[j] and groups.root(i) != groups.root(j)
        groups.join(i, j)
        if exact[i] != exact[j]:
            why[i] = why[j] = "looks like"
    members: dict[int, list[int]] = {}
    for i in range(len(entries)):
        members.setdefault(groups.root(i), []).append(i)
    for group in members.values():
        name = min((p for i in group for p in entries[i].prints), default=_hash(entries[group[0]].id))
        for i in group:
            entries[i].source_id = name
    _propose(entries, fractions, loose)
    for group in members.values():
        _settle(entries, group, loose, why)
    return found


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _join_equal(groups: Groups, keys: Iterable[tuple[object, int]]) -> None:
    first: dict[object, int] = {}
    for key, i in keys:
        groups.join(first.setdefault(key, i), i)


def _divisible(entries: Sequence[Entry], fractions: Mapping[str, Fractions]) -> dict[str, Fractions | None]:
    """Per task the fractions that are to be taken from its training pairs; None if its splits are all published."""
    published: dict[str, set[str | None]] = {task: set() for task in fractions}
    for entry in entries:
        published[entry.task].add(entry.published)
    left = {
        task: Fractions(0 if "val" in known else f.val, 0 if "test" in known else f.test)
        for (task, f), known in zip(fractions.items(), published.values(), strict=True)
    }
    return {task: f if f.val or f.test else None for task, f in left.items()}


def _propose(
    entries: Sequence[Entry], fractions: Mapping[str, Fractions], loose: Mapping[str, Fractions | None]
) -> None:
    for task in fractions:
        share = loose[task]
        mine = [e for e in entries if e.task == task]
        open_ones = [e for e in mine if e.published in (None, "train")]
        place = {}
        if share and open_ones:
            place = split_groups([e.source_id for e in open_ones], share.val, share.test, f"task {task}")
        for entry in mine:
            entry.split = place.get(entry.source_id, "train") if entry.published in (None, "train") else entry.published


def _settle(
    entries: Sequence[Entry],
    group: Sequence[int],
    loose: Mapping[str, Fractions | None],
    why: Mapping[int, str],
) -> None:
    """One split for one photo: the strongest published one, and what was divided by hash follows."""
    fixed = [i for i in group if entries[i].published and not _may_move(entries[i], loose)]
    strongest = max(fixed or group, key=lambda i: _STRENGTH[entries[i].split])
    split = entries[strongest].split
    for i in group:
        entry = entries[i]
        if entry.split == split:
            continue
        if split in _may_move(entry, loose):
            entry.split = split
        else:
            entry.reason = f"{why.get(i, 'same source image as')} {entries[strongest].id} of {split}"
            entry.split = ""


def _may_move(entry: Entry, loose: Mapping[str, Fractions | None]) -> tuple[str, ...]:
    """The splits an entry may be put in: all without a published one; of published training pairs those drawn from."""
    if entry.published is None:
        return ("train", "val", "test")
    share = loose[entry.task]
    if entry.published != "train" or share is None:
        return ()
    return ("train", *(name for name in ("val", "test") if getattr(share, name)))
