"""Training examples whose images are cached moments, or pixels still to be encoded.

Shapes: B batch, C latent channels, H W pixels, h w latent size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ip2p_lightning.data.batch_sampler import Key
from ip2p_lightning.data.dataset import EditDataset, TaskDatasets, to_tensor
from ip2p_lightning.data.example import EditExample
from ip2p_lightning.data.latent_cache.content_key import Contents, class_version, described
from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.rng import numpy_rng
from ip2p_lightning.system.file_digests import News


class Variant(NamedTuple):
    """One of the stored views of a pair."""

    crop: int
    flip: bool


@dataclass(frozen=True)
class Codec:
    """Moments of a pair to bytes and back: the original's mean (its variance is never used) and the edited's moments.

    channels, side: C and h = w. deterministic: the edited's variance is a constant, and not stored. dtype: of storage.
    """

    channels: int
    side: int
    deterministic: bool
    dtype: torch.dtype = torch.float32
    constant: float = -30.0  # the log-variance of a point, as in networks.autoencoder

    @property
    def planes(self) -> tuple[int, int]:
        """Channels stored of the original and of the edited."""
        return self.channels, self.channels if self.deterministic else 2 * self.channels

    @property
    def payload(self) -> int:
        """Bytes of a pair."""
        return sum(self.planes) * self.side**2 * self.dtype.itemsize

    def pack(self, original: Tensor, edited: Tensor) -> bytes:  # [2C h w] each
        """What is stored."""
        both = torch.cat([original[: self.planes[0]], edited[: self.planes[1]]]).detach().cpu()
        return both.to(self.dtype).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    def unpack(self, payload: bytes) -> tuple[Tensor, Tensor]:  # -> [2C h w] each, float32
        """Original (the log-variance of a point) and edited."""
        flat = torch.frombuffer(bytearray(payload), dtype=self.dtype).float()
        parts = flat.view(-1, self.side, self.side).split(self.planes)
        return self._whole(parts[0]), self._whole(parts[1])

    def _whole(self, part: Tensor) -> Tensor:
        return part if len(part) == 2 * self.channels else torch.cat([part, torch.full_like(part, self.constant)])


class Item(NamedTuple):
    """An example and the key under which its moments belong; `key` empty: they are here, or are not to be kept."""

    example: EditExample
    key: bytes
    cached: bool  # images are moments
    news: News = News()  # of the sources


class CachedTask:
    """The examples of one task, those of `base`, from its cache.

    space: None: nothing of this task is cached.
    crops: stored views of each pair, apart from their mirror images.
    """

    def __init__(self, base: EditDataset, space: Space | None, crops: int, contents: Contents, codec: Codec) -> None:
        self.base, self.space, self.crops, self.contents, self.codec = base, space, crops, contents, codec
        self._made_by = ""
        if space is not None:
            make = getattr(base.pairs, "make", None)
            self._made_by = class_version(type(base.pairs)) + (described(make) if make else "")

    def __getitem__(self, key: tuple[int, int, int]) -> Item:
        """The example of ``(epoch, index, draw)``: the view is drawn from the stored ones by the same key.

        The flip is the one that the example has without a cache; so is everything else where crops == 1.
        """
        if self.space is None:
            return Item(self.base[key], b"", False)
        place, prompt, view = self.base.drawn(key)
        scale, _, _, flip = numpy_rng(*place, "image").random(4)  # View's four numbers
        return self.item(key[1], Variant(int(scale * self.crops), bool(flip < view.flip)), prompt)

    def item(self, index: int, variant: Variant, prompt: str) -> Item:
        """A stored view of a pair, or its pixels where it is not stored yet. Raises as the source does."""
        base, content = self.base, self.contents.of(self.base.pairs, index)
        name = base.pairs.id(index)
        key = hashlib.sha256(content + f"{self._made_by} {variant.crop} {variant.flip}".encode()).digest()
        payload = self.space.get(key) if self.space is not None else None
        if payload is not None:
            original, edited = self.codec.unpack(payload)
            example = EditExample(original, edited, prompt, base.task, name)
            return Item(example, key, True, self.contents.digests.news())
        # the view's randomness goes by the content: equal for all jobs, whatever their seeds
        rng = numpy_rng("cached view", content.hex(), variant.crop)
        images = base.pairs.pair(index, rng, replace(base.view, flip=float(variant.flip)))
        if self.contents.of(base.pairs, index) != content:  # replaced meanwhile: these pixels have no certain key
            key = b""
        original, edited = map(to_tensor, images)
        example = EditExample(original, edited, prompt, base.task, name)
        return Item(example, key, False, self.contents.digests.news())

    @property
    def variants(self) -> list[Variant]:
        """All views that may be drawn."""
        flips = [f for f, wanted in ((False, self.base.view.flip < 1), (True, self.base.view.flip > 0)) if wanted]
        return [Variant(crop, flip) for crop in range(self.crops) for flip in flips]


class CachedTasks(Dataset[Item]):
    """`TaskDatasets` through caches."""

    def __init__(self, base: TaskDatasets, tasks: Mapping[str, CachedTask]) -> None:
        self.base, self.tasks = base, dict(tasks)

    def __getitem__(self, key: Key) -> Item:
        return self.tasks[key.task][key.epoch, key.index, key.draw]


class Part(NamedTuple):
    """The cached or the other items of a batch: images stacked, and their places in the batch."""

    example: EditExample
    keys: list[bytes]
    places: list[int]


class Mixed(NamedTuple):
    """A batch as a loader's worker makes it."""

    cached: Part | None
    pixels: Part | None
    news: list[News]


def collate(items: Sequence[Item]) -> Mixed:
    """Stack what can be stacked, in the worker."""
    return Mixed(_part(items, True), _part(items, False), [item.news for item in items])


def _part(items: Sequence[Item], cached: bool) -> Part | None:
    places = [i for i, item in enumerate(items) if item.cached == cached]
    if not places:
        return None
    examples: Any = default_collate([items[i].example for i in places])
    return Part(examples, [items[i].key for i in places], places)
