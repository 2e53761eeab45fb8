"""Batches from a cache: what is missing is encoded by the training process, on its device, once among all processes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ip2p_lightning.data.dataloader import Batches, Loader
from ip2p_lightning.data.example import EditExample
from ip2p_lightning.data.latent_cache.examples import CachedTasks, Codec, Mixed, Part, collate
from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.errors import StorageError

_POLL = 0.01  # seconds between looks at an entry that another process is computing


@dataclass
class Counts:
    """What happened to the pairs of a run."""

    hits: int = 0  # found
    filled: int = 0  # encoded and stored
    shared: int = 0  # encoded by another process meanwhile
    unstored: int = 0  # encoded, and refused by the disk
    uncached: int = 0  # not to be stored
    sources_read: int = 0  # files and rows read for their digests


class Filler:
    """Completes batches; `autoencoder` encodes on its own device.

    changed: sources whose content has changed (see `News`).
    strict: whether a full disk is an error, not a warning and a slower run.
    """

    def __init__(self, space: Space, codec: Codec, autoencoder: Any) -> None:
        self.space, self.codec, self.autoencoder = space, codec, autoencoder
        self.counts, self.strict, self._full = Counts(), False, False
        self.changed: frozenset[bytes] = frozenset()

    def __call__(self, batch: Mixed) -> EditExample:
        """The batch with moments [B 2C h w] in place of both images; [B 3 H W] where nothing of it is cached."""
        self.counts.sources_read += sum(news.read for news in batch.news)
        self.changed = self.changed.union(*(news.changed for news in batch.news))
        cached, pixels = batch.cached, batch.pixels
        self.counts.hits += len(cached.places) if cached is not None else 0
        if pixels is None:
            assert cached is not None
            return cached.example  # as the loader made it: page-locked, if it was asked for that
        if cached is None and not any(pixels.keys):
            self.counts.uncached += len(pixels.places)
            return pixels.example  # fresh draws only: the loss encodes them, on its own device
        parts = [(pixels, self._moments(pixels))]
        if cached is not None:
            parts.append((cached, (cached.example.original, cached.example.edited)))
        return _joined(parts)

    def _moments(self, part: Part) -> tuple[Tensor, Tensor]:
        """Moments of a part that is not cached: encodes missing entries, waits for those another process encodes."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        keyless = [i for i, key in enumerate(part.keys) if not key]
        self.counts.uncached += len(keyless)
        self._encode(part, keyless, found)
        rows = {key: i for i, key in enumerate(part.keys) if key}
        while rows:
            done = self._claimed(part, rows, found)
            for key in done:
                found |= {i: found[rows[key]] for i, k in enumerate(part.keys) if k == key}
                del rows[key]
            if rows and not done:
                time.sleep(_POLL)
        originals, edited = zip(*(found[i] for i in range(len(part.keys))), strict=True)
        return torch.stack(originals), torch.stack(edited)

    def _claimed(self, part: Part, rows: dict[bytes, int], found: dict[int, tuple[Tensor, Tensor]]) -> list[bytes]:
        """Encode what no other process claims, and read what others have finished. Never waits: no deadlock."""
        ready: dict[bytes, bytes] = {}
        with self.space.claims() as claims:
            mine = claims.take(rows)
            for key in rows:
                payload = self.space.get(key)  # after the claim: whoever held it before has stored it
                if payload is not None:
                    ready[key] = payload
            missing = [key for key in mine if key not in ready]
            self._encode(part, [rows[key] for key in missing], found)
            self._store([(key, self.codec.pack(*found[rows[key]])) for key in missing])
        for key, payload in ready.items():
            found[rows[key]] = self.codec.unpack(payload)
        self.counts.shared += len(ready)
        return [*ready, *missing]

    def _encode(self, part: Part, rows: list[int], found: dict[int, tuple[Tensor, Tensor]]) -> None:
        if not rows:
            return
        model = self.autoencoder.model
        device = torch.device("cpu") if model is None else next(model.parameters()).device
        sides = (part.example.original[rows].to(device), part.example.edited[rows].to(device))
        # one call a side: as the loss without a cache calls it, and as fast as one call for both; one wait for a GPU
        originals, edited = torch.stack([self.autoencoder.moments(side) for side in sides]).cpu()
        if self.codec.dtype != torch.float32:  # the first use shows what all later ones will
            originals, edited = (m.to(self.codec.dtype).float() for m in (originals, edited))
        found |= {row: (originals[n], edited[n]) for n, row in enumerate(rows)}

    def _store(self, entries: list[tuple[bytes, bytes]]) -> None:
        if not entries:
            return
        try:
            if not self._full:
                self.space.put(entries)
                self.counts.filled += len(entries)
                return
        except StorageError as error:  # a full disk makes training slower, not impossible
            if self.strict:
                raise
            self._full = True
            warnings.warn(f"{error}; the cache is not filled any further", stacklevel=2)
        self.counts.unstored += len(entries)


def _joined(parts: list[tuple[Part, tuple[Tensor, Tensor]]]) -> EditExample:
    """One batch, every example at its place."""
    order = torch.tensor([place for part, _ in parts for place in part.places]).argsort()
    original, edited = (torch.cat([moments[side] for _, moments in parts])[order] for side in (0, 1))
    if parts[0][0].example.original.is_pinned():  # as the loader would have it
        original, edited = original.pin_memory(), edited.pin_memory()
    words: list[Any] = []
    for name in ("prompt", "task", "id"):
        flat = [word for part, _ in parts for word in getattr(part.example, name)]
        words.append([flat[i] for i in order])
    return EditExample(original, edited, *words)


class CachedBatches(Batches):
    """`Batches` of moments."""

    def __init__(self, dataset: CachedTasks, keys: Any, loader: Loader, filler: Filler) -> None:
        super().__init__(dataset, keys, loader, collate=collate)
        self.filler = filler

    def __iter__(self) -> Iterator[EditExample]:
        batches: Any = super().__iter__()
        return map(self.filler, batches)
