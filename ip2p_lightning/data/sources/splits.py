"""Train, val and test, decided by the content's hash: no seed, no order, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.data.sources.base import Split
from ip2p_lightning.errors import DataError, UserError

_HEAD = 1 << 16


def fingerprint(path: Path) -> str:
    """Hash of a file's size and first 64 KiB: copies of one image agree, whatever they are called."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return hashlib.sha256(f"{path.stat().st_size}:".encode() + head).hexdigest()


def checked_fractions(owner: str, val: float, test: float) -> None:
    """Refuse fractions that leave nothing to train on."""
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise UserError(f"{owner}: val={val} and test={test} must be within [0, 1) and leave some for training")


class Groups:
    """Disjoint sets, joined pair by pair; the smallest member leads, so that the order of joining does not matter."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Any] = {}

    def root(self, member: Hashable) -> Any:
        """The leader of the set that `member` is in, itself if it was never joined."""
        while self._parent.setdefault(member, member) != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def join(self, a: Hashable, b: Hashable) -> None:
        first, second = sorted((self.root(a), self.root(b)))
        self._parent[second] = first


def split_groups(groups: Sequence[str], val: float, test: float, where: str) -> dict[str, Split]:
    """The split of each distinct group.

    A group goes by its own hash alone, so adding images moves no other one; but each split that has a fraction gets at
    least one group, the one whose hash is nearest. Raises DataError, naming `where`: fewer groups than splits.

    groups: names of groups (one scene, one photo) that must stay together; repeats count once.
    val, test: fraction for validation, for testing; 0 for none.
    """
    places = {group: _place(group) for group in set(groups)}
    order = sorted(places, key=places.__getitem__)
    needed = 1 + (val > 0) + (test > 0)
    if len(order) < needed:
        few = f"{len(order)} distinct images cannot be split in {needed}"
        raise DataError(f"{where}: {few}; add some, or set data.val=0 and data.test=0")
    tests = max(int(test > 0), sum(places[g] < test for g in order))
    tests = min(tests, len(order) - needed + (test > 0))
    vals = max(int(val > 0), sum(test <= places[g] < test + val for g in order))
    vals = min(vals, len(order) - tests - 1)
    return {g: "test" if i < tests else "val" if i < tests + vals else "train" for i, g in enumerate(order)}


def _place(group: str) -> float:
    """Where in [0, 1) a group's hash lies."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48
