"""What of a run is cached, how large it is, and the objects that do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.dataset import EditDataset, TaskDatasets
from ip2p_lightning.data.latent_cache.content_key import Contents, class_version
from ip2p_lightning.data.latent_cache.encode import CachedBatches, Filler
from ip2p_lightning.data.latent_cache.examples import CachedTask, CachedTasks, Codec
from ip2p_lightning.data.latent_cache.settings import DTYPES, Settings, settings_of
from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.data.latent_cache.version import VERSION, libraries
from ip2p_lightning.system.file_digests import MEMO, Digests


@dataclass
class Share:
    """What is cached of one task: its pairs, its stored views per pair, and the reason where nothing is."""

    task: str
    pairs: int
    views: int
    reason: str = ""

    @property
    def entries(self) -> int:
        """Pairs times views, where it is cached."""
        return 0 if self.reason else self.pairs * self.views


class Cache:
    """The training examples of a data module through a cache; `autoencoder` encodes what is missing."""

    def __init__(self, settings: Settings, data: Any, autoencoder: Any) -> None:
        self.settings, self.autoencoder, self._data = settings, autoencoder, data
        base: TaskDatasets = data.datasets("train")
        self._view = next(iter(base.tasks.values())).view
        side = self._view.size // autoencoder.factor
        self.codec = Codec(autoencoder.channels, side, autoencoder.deterministic, DTYPES[settings.dtype])
        self.shares = shares_of(settings, data)
        self.reason = refusal(self.shares)
        if not self.reason:
            root = Path(settings.folder).expanduser()
            self.space = Space(root, self._description(), self.codec.payload)
            self.space.create()
            self.contents = Contents(Digests(root / MEMO))
            self.filler = Filler(self.space, self.codec, autoencoder)
            tasks = {share.task: self._task(base.tasks[share.task], share) for share in self.shares}
            self.tasks = CachedTasks(base, tasks)

    def batches(self, dataset: TaskDatasets, keys: Any, loader: Loader) -> CachedBatches:
        """In place of `Batches`."""
        return CachedBatches(self.tasks, keys, loader, self.filler)

    @property
    def entries(self) -> int:
        """Pairs times views."""
        return sum(share.entries for share in self.shares)

    @property
    def bytes(self) -> int:
        """Size when full."""
        return self.entries * (self.codec.payload + self.space.index.width)

    def summary(self) -> str:
        """What is cached and what is not, in one line."""
        if self.reason:
            return f"cache: off: {self.reason}"
        tasks = "; ".join(f"{s.task}: {s.reason or f'{s.pairs} pairs x {s.views} views'}" for s in self.shares)
        entries = f"{len(self.space)} of {self.entries} entries there, {self.bytes / 1e6:,.0f} MB when full"
        return f"cache: {self.space.folder} ({tasks}), {entries}"

    def state(self) -> dict[str, Any]:
        """For ``status.json``."""
        if self.reason:
            return {"mode": "off", "reason": self.reason}
        counts = {"damaged": self.space.damaged + self.space.index.damaged}
        counts |= {"changed_sources": len(self.filler.changed | self._data.changed)}
        tasks = {s.task: s.reason or f"{s.views} views" for s in self.shares}
        return {"folder": str(self.space.folder), "tasks": tasks} | asdict(self.filler.counts) | counts

    def _task(self, task: EditDataset, share: Share) -> CachedTask:
        space = None if share.reason else self.space
        return CachedTask(task, space, _crops(self.settings, task), self.contents, self.codec)

    def _description(self) -> dict[str, Any]:
        """All that decides an entry, apart from the pair and its view."""
        shown = self._view
        return {
            "autoencoder": self.autoencoder.digest() + class_version(type(self.autoencoder)),
            "size": shown.size,
            "resize": list(shown.resize) if shown.resize else None,
            "crop": shown.crop,
            "dtype": self.settings.dtype,
            "precision": self.settings.precision,  # not the device: what a CPU made serves a GPU
            "version": VERSION,
            "libraries": libraries(),
        }


def shares_of(settings: Settings, data: Any) -> list[Share]:
    """What would be cached of each task of a data module."""
    return [_share(settings, name, task) for name, task in data.datasets("train").tasks.items()]


def _share(settings: Settings, name: str, task: Any) -> Share:
    flips = (task.view.flip > 0) + (task.view.flip < 1)
    share = Share(name, len(task.pairs), _crops(settings, task) * flips)
    if not hasattr(task.pairs, "sources"):
        share.reason = "its source does not say what its pairs are made from"
    elif hasattr(task.pairs, "make") and not settings.draws:
        share.reason = "made anew for every example; cache_draws=4 would store four of each photo"
    return share


def _crops(settings: Settings, task: Any) -> int:
    if hasattr(task.pairs, "make"):
        return max(1, settings.draws)
    fixed = task.view.crop == "center" and (task.view.resize is None or task.view.resize[0] == task.view.resize[1])
    return 1 if fixed else settings.variants


def refusal(shares: list[Share]) -> str:
    """Why nothing is cached, "" where something is."""
    tasks: dict[str, list[str]] = {}
    for share in shares:
        tasks.setdefault(share.reason, []).append(share.task)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in tasks.items()) if "" not in tasks else ""


def cached(config: Mapping[str, Any], data: Any, autoencoder: Any) -> Cache | None:
    """Put a cache between a data module and its training batches, as a resolved config says; None where it is off."""
    settings = settings_of(config)
    if settings.mode == "off":
        return None
    cache = Cache(settings, data, autoencoder)
    if not cache.reason:
        data.cache = cache.batches
    return cache
