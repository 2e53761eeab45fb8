"""Splits that share no photo: pairs are grouped by content, scene and perceptual hash, then divided by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ip2p_lightning.curation.audit.perceptual_hash import PerceptualHash, find_lookalikes
from ip2p_lightning.data.sources.splits import Groups, split_of_group

_STRENGTH = {"train": 0, "val": 1, "test": 2}  # of two splits with one photo, the test set keeps it


@dataclass(slots=True)
class Entry:
    """What the assignment of splits needs to know of an accepted candidate."""

    id: str
    task: str
    published: str | None
    scene: str | None
    pixel_hashes: tuple[str, ...]
    hash: PerceptualHash
    bytes: int
    chunk: int = 0
    split: str = ""
    """Assigned here; "" for a leak that is rejected."""
    source_id: str = ""
    reason: str = ""


class Fractions(NamedTuple):
    """Of a task's pairs without a published split."""

    val: float
    test: float


def assign_splits(entries: Sequence[Entry], fractions: Mapping[str, Fractions], lookalikes: bool) -> int:
    """Set the `split` and `source_id` of every entry; one that would leak gets no split but a `reason`.

    A group stays in one split. Where published splits disagree, test keeps it before val, and val before train;
    entries without a published split move, published ones are rejected. Returns the number of pairs of lookalikes.

    entries: in order of id.
    fractions: per task.
    lookalikes: whether nearly equal photos are one group.
    """
    groups, drawn = Groups(), _fractions_to_draw(entries, fractions)
    reasons = {}
    _join_equal(groups, ((("pixels", h), i) for i, entry in enumerate(entries) for h in entry.pixel_hashes))
    _join_equal(
        groups, ((("scene", e.task, e.scene), i) for i, e in enumerate(entries) if e.scene and any(drawn[e.task]))
    )
    exact = [groups.root(i) for i in range(len(entries))]
    found = 0
    for i, j in find_lookalikes([e.hash for e in entries]) if lookalikes else ():
        found += exact[i] != exact[j] and groups.root(i) != groups.root(j)
        groups.join(i, j)
        if exact[i] != exact[j]:
            reasons[i] = reasons[j] = "looks like"
    members: dict[int, list[int]] = {}
    for i in range(len(entries)):
        members.setdefault(groups.root(i), []).append(i)
    for group in members.values():
        mine = [entries[i] for i in group]  # named by what further pairs of it leave as it is: scene, or photos
        scenes = [_text_id(f"{e.task} {e.scene}") for e in mine if e.scene and any(drawn[e.task])]
        name = min(scenes or [e.pixel_hashes[0] for e in mine if e.pixel_hashes] or [_text_id(mine[0].id)])
        for entry in mine:
            entry.source_id = name
    _divide(entries, drawn)
    for group in members.values():
        _resolve_conflicts([entries[i] for i in group], drawn, [reasons.get(i, "same source image as") for i in group])
    return found


def _text_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _join_equal(groups: Groups, keys: Iterable[tuple[object, int]]) -> None:
    first: dict[object, int] = {}
    for key, i in keys:
        groups.join(first.setdefault(key, i), i)


def _fractions_to_draw(entries: Sequence[Entry], fractions: Mapping[str, Fractions]) -> dict[str, Fractions]:
    """Per task the fractions to take from its training pairs: 0 for a split that is published."""
    published = {(entry.task, entry.published) for entry in entries}
    return {
        task: Fractions(0 if (task, "val") in published else f.val, 0 if (task, "test") in published else f.test)
        for task, f in fractions.items()
    }


def _divide(entries: Sequence[Entry], drawn: Mapping[str, Fractions]) -> None:
    for task, share in drawn.items():
        for entry in (e for e in entries if e.task == task):
            known = entry.published if entry.published != "train" else None
            entry.split = known or split_of_group(entry.source_id, share.val, share.test)


def _resolve_conflicts(group: Sequence[Entry], drawn: Mapping[str, Fractions], reasons: Sequence[str]) -> None:
    """One split for the group: the strongest published one; entries that were divided by hash follow."""
    fixed = [entry for entry in group if entry.published and not _possible_splits(entry, drawn)]
    strongest = max(fixed or group, key=lambda entry: _STRENGTH[entry.split])
    split = strongest.split
    for entry, reason in zip(group, reasons, strict=True):
        if entry.split != split and split in _possible_splits(entry, drawn):
            entry.split = split
        elif entry.split != split:
            entry.split, entry.reason = "", f"{reason} {strongest.id} of {split}"


def _possible_splits(entry: Entry, drawn: Mapping[str, Fractions]) -> tuple[str, ...]:
    """All without a published one; for a published training pair, those drawn from the training pairs."""
    if entry.published is None:
        return ("train", "val", "test")
    names = [name for name in ("val", "test") if getattr(drawn[entry.task], name)]
    return ("train", *names) if names and entry.published == "train" else ()
