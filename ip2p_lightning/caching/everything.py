"""Filling a cache before it is used."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DataLoader, Dataset

from ip2p_lightning.caching.examples import Item, Variant, collate
from ip2p_lightning.caching.setup import Cache


class Everything(Dataset[Item]):
    """Every stored view of every pair of a cache, in order."""

    def __init__(self, cache: Cache) -> None:
        self.tasks = [(cache.tasks.tasks[s.task], s.pairs, s.views) for s in cache.shares if not s.reason]

    def __len__(self) -> int:
        return sum(pairs * views for _, pairs, views in self.tasks)

    def __getitem__(self, place: int) -> Item:
        task, index, variant = self.at(place)
        return self.tasks[task][0].item(index, variant, "")

    def at(self, place: int) -> tuple[int, int, Variant]:
        """Task, pair and view at a place: the views of a pair come one after the other, its file is read once."""
        for number, (task, pairs, views) in enumerate(self.tasks):
            if place < pairs * views:
                return number, place // views, task.variants[place % views]
            place -= pairs * views
        raise IndexError(place)


def fill_all(cache: Cache, batch_size: int = 8, workers: int = 0) -> Iterator[int]:
    """Compute what is missing; yields how many entries are done after each batch.

    Raises:
        StorageError: the disk takes no more.
        DataError: as the sources do.
    """
    cache.filler.strict = True
    done = 0
    for batch in DataLoader(Everything(cache), batch_size, num_workers=workers, collate_fn=collate):
        cache.filler(batch)
        done += sum(len(part.places) for part in batch if part is not None)
        yield done
