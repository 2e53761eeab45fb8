"""Filling a cache before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, Dataset

from ip2p_lightning.data.bad_pairs import BadPairs
from ip2p_lightning.data.batch_sampler import Key
from ip2p_lightning.data.dataloader import Batches, Loader
from ip2p_lightning.data.latent_cache.cache import Cache
from ip2p_lightning.data.latent_cache.examples import Item, collate


class Everything(Dataset[Item]):
    """Every stored view of every pair of a cache, by keys whose `draw` is the number of the view.

    Iterating gives the keys; the views of a pair are neighbours, so that its file is read once.
    """

    def __init__(self, cache: Cache) -> None:
        self.base, self.tasks = cache.tasks.base, cache.tasks.tasks
        self.shares = [share for share in cache.shares if not share.reason]

    def __len__(self) -> int:
        return sum(share.pairs * share.views for share in self.shares)

    def __iter__(self) -> Iterator[Key]:
        for share in self.shares:
            yield from (Key(share.task, 0, i, view) for i in range(share.pairs) for view in range(share.views))

    def __getitem__(self, key: Key) -> Item:
        task = self.tasks[key.task]
        view = key.draw if key.draw >= 0 else -1 - key.draw  # see `bad_pairs.replacement`
        return task.item(key.index, task.variants[view], "")


def fill_all(cache: Cache, loader: Loader | None = None, bad: BadPairs | None = None) -> Iterator[int]:
    """Compute what is missing; yields how many entries are done after each batch.

    loader: its batch size and workers; None: 8 at a time, prepared in this process.
    bad: records pairs that cannot be read; None: the first is an error.
    Raises StorageError: the disk is full; DataError: as the sources do, and for a worker that died.
    """
    cache.filler.strict = True
    every, loader, done = Everything(cache), loader or Loader(batch_size=8), 0
    keys: Any = BatchSampler(every, loader.batch_size, drop_last=False)  # which takes anything that can be iterated
    batches: Any = Batches(every, keys, loader, collate)
    batches.examples.bad = bad
    try:
        for batch in batches:
            cache.filler(batch)
            done += len(batch.news)
            yield done
    finally:
        batches.close()
