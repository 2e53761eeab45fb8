"""Train, val and test, decided by a photo's own hash: no seed, no order, the same beside any others on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

from ip2p_lightning.data.sources.base import EmptySplitError, Split
from ip2p_lightning.errors import UserError


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


def split_of_group(group: str, val: float, test: float) -> Split:
    """The split of a group (one photo, one scene), by its name alone: adding others never moves it.

    val, test: fraction for validation, for testing; of few groups, a split may get none.
    """
    place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48
    return "test" if place < test else "val" if place < test + val else "train"


def splits_of_pairs(pairs: Sequence[tuple[str, str]], val: float, test: float) -> list[Split]:
    """The split of each pair of an original's and an edited image's hash: pairs that share an image stay together.

    A group is named by its originals, the smallest hash of them: further edits of a photo never move it.
    """
    groups, names = Groups(), dict[str, str]()
    for original, edited in pairs:
        groups.join(original, edited)
    roots = [groups.root(original) for original, _ in pairs]
    for root, (original, _) in zip(roots, pairs, strict=True):
        names[root] = min(names.get(root, original), original)
    return [split_of_group(names[root], val, test) for root in roots]


def empty_split(where: object, what: str, split: Split, published: str) -> EmptySplitError:
    """Nothing of a source that is divided by hash is in `split`; `published` is how to say what is where instead."""
    fractions = "smaller data.val= and data.test=" if split == "train" else f"a larger data.{split}="
    return EmptySplitError(f"{where}: no {what} for '{split}'; add some, give {published}, or {fractions}")
