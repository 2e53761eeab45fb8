"""The plan of a build, made before any image is opened; its digest says whether two builds are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ip2p_lightning.curation.audit import token_count
from ip2p_lightning.curation.audit.examine import Part
from ip2p_lightning.curation.audit.policy import Audit
from ip2p_lightning.curation.origins.base import Listing
from ip2p_lightning.errors import UserError


@dataclass(frozen=True)
class BuildSettings:
    """What to build; every field but the last two decides the dataset's bytes."""

    parts: Sequence[Part]
    audit: Audit
    shard_bytes: int = 500_000_000
    tokenizer: str | None = None
    on_bad: str = "fail"
    workers: int = 0


def select_candidates(part: Part) -> Listing:
    """The candidates of a part within its splits and limit; the keyed draw does not depend on the order of files."""
    candidates, rejected = part.origin.list()
    if part.splits is not None:
        candidates = [c for c in candidates if c.split is None or c.split in part.splits]
    if part.limit is not None:
        if len(candidates) < part.limit:
            raise UserError(f"limit={part.limit}: {part.origin.name} has {len(candidates)} candidates for {part.task}")
        key = f"{part.seed}\x1f{part.task}\x1f"
        candidates = sorted(candidates, key=lambda c: hashlib.sha256(f"{key}{c.id}".encode()).digest())[: part.limit]
    return Listing(sorted(candidates), rejected)


def make_plan(settings: BuildSettings, listings: Sequence[Listing], counted: str, chunks: int) -> dict[str, Any]:
    """The plan as stored beside the chunks: all that `assemble` and the card need, and the digest of it."""
    parts, rejected = [], []
    for part, listing in zip(settings.parts, listings, strict=True):
        one_sided = bool(listing.candidates) and None in listing.candidates[0][1:3]
        parts.append(
            {
                "task": part.task,
                "source": part.origin.name,
                "val": part.origin.val,
                "test": part.origin.test,
                "facts": part.origin.facts(),
                "candidates": len(listing.candidates),
                "prompts": list(part.prompts.prompts),
                "make": part.make_config,
                "made_by": type(part.make).__name__ if one_sided else "",
                "short_side": part.short_side,
                "seed": part.seed,
            }
        )
        rejected += [r._asdict() | {"id": f"{part.task}/{r.id}", "task": part.task} for r in listing.rejected]
    plan = {"format": 1, "parts": parts, "audit": asdict(settings.audit), "shard_bytes": settings.shard_bytes}
    plan |= {"tokens": counted, "max_tokens": token_count.MOST, "chunks": chunks, "rejected": rejected}
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode())
    for listing in listings:
        for candidate in listing.candidates:  # without the time stamps: a copy of the source is the same source
            digest.update(json.dumps(candidate[:-1]).encode())
    return plan | {"digest": digest.hexdigest()}
