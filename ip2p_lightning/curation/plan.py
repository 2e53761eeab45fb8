"""What is to be built, in full, before anything is opened: its digest says whether two builds are one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ip2p_lightning.curation.audit import token_count
from ip2p_lightning.curation.audit.examine import Part
from ip2p_lightning.curation.audit.policy import Audit
from ip2p_lightning.curation.sources.base import Candidate, Refusal
from ip2p_lightning.errors import UserError


@dataclass(frozen=True)
class Order:
    """What is to be built; every field but the last two decides the dataset's bytes."""

    parts: Sequence[Part]
    audit: Audit
    limits: Sequence[int | None] = ()
    """Per part: how many candidates to draw; None for all."""
    splits: Sequence[Sequence[str] | None] = ()
    """Per part: published splits to take; None for all."""
    makers: Sequence[Any] = ()
    """Per part: the config of what makes a side, for the record."""
    shard_bytes: int = 500_000_000
    tokenizer: str | None = None
    on_bad: str = "fail"
    workers: int = 0


@dataclass(frozen=True)
class Offer:
    """A part's candidates, chosen and in order, and what was refused without a look at it."""

    candidates: Sequence[Candidate]
    refused: Sequence[Refusal]


def listed(order: Order, i: int) -> Offer:
    """What a part offers, less what is not wanted: a keyed draw that does not depend on the order of files."""
    part, wanted = order.parts[i], order.splits[i] if order.splits else None
    limit = order.limits[i] if order.limits else None
    candidates, refused = part.origin.list()
    if wanted is not None:
        candidates = [c for c in candidates if c.split is None or c.split in wanted]
    if limit is not None:
        if len(candidates) < limit:
            raise UserError(f"limit={limit}: {part.origin.name} has {len(candidates)} candidates for {part.task}")
        key = f"{part.seed}\x1f{part.task}\x1f"
        candidates = sorted(candidates, key=lambda c: hashlib.sha256(f"{key}{c.id}".encode()).digest())[:limit]
    return Offer(sorted(candidates), refused)


def written(order: Order, offers: Sequence[Offer], label: str, chunks: int) -> dict[str, Any]:
    """The plan as it is kept beside the chunks: all that `assemble` and the card need, and the digest of it all."""
    parts = [
        {
            "task": part.task,
            "source": part.origin.name,
            "val": part.origin.val,
            "test": part.origin.test,
            "facts": part.origin.facts(),
            "candidates": len(mine.candidates),
            "prompts": list(part.prompts.prompts),
            "make": maker,
            "made_by": type(part.make).__name__ if mine.candidates and _one_sided(mine.candidates[0]) else "",
            "short_side": part.short_side,
            "seed": part.seed,
        }
        for part, mine, maker in zip(order.parts, offers, order.makers or [None] * len(offers), strict=True)
    ]
    refused = [
        r._asdict() | {"id": f"{p.task}/{r.id}", "task": p.task}
        for p, mine in zip(order.parts, offers, strict=True)
        for r in mine.refused
    ]
    plan = {"format": 1, "parts": parts, "audit": asdict(order.audit), "shard_bytes": order.shard_bytes}
    plan |= {"tokens": label, "max_tokens": token_count.MOST, "chunks": chunks, "refused": refused}
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode())
    for mine in offers:
        for candidate in mine.candidates:  # without the stamps: a copy of the source is the same source
            digest.update(json.dumps(candidate[:-1]).encode())
    return plan | {"digest": digest.hexdigest()}


def _one_sided(candidate: Candidate) -> bool:
    return candidate.original is None or candidate.edited is None
