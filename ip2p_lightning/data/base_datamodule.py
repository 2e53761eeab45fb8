"""The loaders of a data module, for however many tasks it has."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule

from ip2p_lightning.data.bad_pairs import BadPairs
from ip2p_lightning.data.batch_sampler import EvalBatches, Key, TrainBatches, TrainPlan
from ip2p_lightning.data.dataloader import Batches, Loader
from ip2p_lightning.data.dataset import EditDataset, TaskDatasets
from ip2p_lightning.data.example import EditExample, Photos
from ip2p_lightning.data.prompts import NO_INSTRUCTION
from ip2p_lightning.data.sources.base import EmptySplitError, Pairs, Split
from ip2p_lightning.data.sources.fingerprints import pixel_hash
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.system.file_digests import Digests, shared_digests

if TYPE_CHECKING:
    from ip2p_lightning.data.datamodules import EditDataModule

FEW = 3  # photos in a split below which a run says so

# Of degradations and prompts in validation and testing: runs of all seeds are judged by the same examples.
EVAL_SEED = 0
LOOKED_AT = 8  # pairs for each example to show, until they are of different photos
ASKED = 10_000  # pairs that are asked for their own instruction before a run begins, where no other is given


class TasksDataModule(LightningDataModule):
    """Loaders for the tasks that a subclass names.

    val_examples: pairs per task that `val_dataloader` shows; None: all of them.
    cache: makes the training batches in place of `Batches` (see `Cache.batches`); None: nothing is cached.
    bad: records training pairs that cannot be read; None: the first of them is an error.
    changed: files whose content differs from the cached digest, found by `contents` (see `News`).
    """

    def __init__(self, loader: Loader, seed: int) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer validation images than ranks
        self.loader, self.seed = loader, seed
        self.val_examples: int | None = None
        self.cache: Any = None
        self.bad: BadPairs | None = None
        self.changed: frozenset[bytes] = frozenset()
        self._loaders: list[weakref.ref[Batches]] = []
        self._opened: dict[tuple[str, bool], TaskDatasets] = {}
        self._fitting = False

    @property
    def active(self) -> dict[str, EditDataModule]:
        """The tasks of weight above 0, by name."""
        raise NotImplementedError

    @property
    def weights(self) -> dict[str, float]:
        """Their weights."""
        return dict.fromkeys(self.active, 1.0)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each task in an epoch; they sum to 1."""
        total = sum(self.weights.values())
        return {name: weight / total for name, weight in self.weights.items()}

    def setup(self, stage: str) -> None:
        """Open what `stage` needs, so that missing data is known before a model is built. Raises as the sources do.

        A task without a validation photo is then trained without validation.
        """
        self._fitting |= stage == "fit"
        splits: dict[str, Split] = {"fit": "train", "validate": "val"}
        self.datasets(splits.get(stage, "test"))

    def datasets(self, split: Split, held_out_prompts: bool = False) -> TaskDatasets:
        """The datasets of a split, opened once. Raises as the sources do."""
        key = (split, held_out_prompts)
        if key not in self._opened:
            seed = self.seed if split == "train" else EVAL_SEED
            opened = {}
            for name, task in self.active.items():
                try:
                    pairs = task.source.pairs(split, task.make)
                except EmptySplitError:
                    if split != "val" or not self._fitting:
                        raise
                    continue
                if not len(task.prompts) and any(pairs.prompt(i) is None for i in range(min(len(pairs), ASKED))):
                    raise UserError(f"task {name}: {NO_INSTRUCTION}")
                view = self.loader.view(split, task.flip)
                opened[name] = EditDataset(pairs, task.prompts, name, view, seed, split, held_out_prompts)
            self._opened[key] = TaskDatasets(opened)
        return self._opened[key]

    def train_dataloader(self) -> Batches:
        """Training batches of this rank, from the trainer's position on (from the start without a trainer)."""
        data, (rank, world) = self.datasets("train"), self._place()
        plan = TrainPlan(data.sizes, self.weights, self.loader.epoch_size or len(data), self.seed)
        keys = TrainBatches(plan, self.loader.batch_size, rank, world, self._done, self._total())
        batches = (self.cache or Batches)(data, keys, self.loader)
        batches.examples.bad = self.bad
        return self._watched(batches)

    def val_dataloader(self) -> Batches:
        """Validation batches: the same crops, degradations and prompts every time."""
        return self.evaluation("val", examples=self.val_examples)

    def test_dataloader(self) -> Batches:
        """Test batches, likewise."""
        return self.evaluation("test")

    def predict_dataloader(self) -> Batches:
        """The test split."""
        return self.evaluation("test")

    def evaluation(
        self,
        split: Split = "test",
        held_out_prompts: bool = False,
        examples: int | None = None,
        draws: int | None = None,
    ) -> Batches:
        """Every pair of a split (train with the training view), several times, none twice over all ranks.

        held_out_prompts: ask with prompts that training never draws.
        examples: only the first so many pairs of each task; None: all.
        draws: times each pair is shown, with a degradation and prompt of its own; None: `loader.eval_draws`.
        """
        data, (rank, world) = self.datasets(split, held_out_prompts), self._place()
        sizes = {name: size if examples is None else min(size, examples) for name, size in data.sizes.items()}
        keys = EvalBatches(sizes, draws or self.loader.eval_draws, self.loader.batch_size_of_eval, rank, world)
        return self._watched(Batches(data, keys, self.loader))

    def explained(self, error: RuntimeError) -> DataError | None:
        """The error as a hanging or dead worker of one of the loaders; None: it is another one."""
        living = (loader() for loader in self._loaders)
        return next(filter(None, (loader.explained(error) for loader in living if loader)), None)

    def _watched(self, batches: Batches) -> Batches:
        self._loaders.append(weakref.ref(batches))
        return batches

    def fixed_examples(self, per_task: int, split: Split = "val") -> list[EditExample]:
        """`per_task` examples of each task, the same in every run: of different photos, then again of these."""
        data, found = self.datasets(split), []
        for task, size in data.sizes.items():
            photos = Photos(per_task)
            for i in range(min(size, LOOKED_AT * per_task)):
                example = data[Key(task, 0, i, 0)]
                photos.see(example, example)
                if photos.count == per_task:
                    break
            draws = (data[Key(task, 0, i % size, i // size)] for i in range(size, size + per_task - len(photos.chosen)))
            found += [*photos.chosen, *draws]
        return found

    def contents(
        self, splits: Sequence[Split] = ("train", "val"), digests: Digests | None = None
    ) -> dict[str, dict[str, str]]:
        """Hashes of what the data consists of, by ``task/split`` and name. Raises as the sources do."""
        digests = digests or shared_digests()
        found = {
            f"{name}/{split}": dataset.pairs.contents(digests)
            for split in splits
            for name, dataset in self.datasets(split).tasks.items()
        }
        self.changed = frozenset(digests.changed)
        return found

    def few_photos(self, splits: Sequence[Split]) -> str:
        """A line on which of these splits have fewer than three photos, and what to do; "" if none has."""
        found: dict[str, list[str]] = {}
        for name, task in self.active.items():
            counts = {split: _photos(task, split) for split in splits}
            words = [f"{count or 'no'} in {split}" for split, count in counts.items() if count < FEW]
            found.setdefault(", ".join(words), []).append(name)
        found.pop("", None)
        if not found:
            return ""
        each = "; ".join(f"{', '.join(names)}: {words}" for words, names in found.items())
        none = "val" in splits and not self.datasets("val").tasks
        what = "there is no validation" if none else "their scores say little"
        how = "more photos, folders or a column that name the splits, or larger data.val= and data.test="
        return f"data: few photos ({each}), {what}; give {how}"

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _total(self) -> int | None:
        """Micro-batches of the whole run, where the trainer knows: to Lightning a run is then one long epoch."""
        if not self.trainer or self.trainer.max_steps < 1 or self.trainer.overfit_batches:
            return None
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def _done(self) -> int:
        """Micro-batches already done: in every Lightning checkpoint, and right between epochs as within them."""
        if not self.trainer or self.trainer.overfit_batches:  # overfitting repeats the first batches
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed


def _photos(task: EditDataModule, split: Split) -> int:
    """Distinct photos of a split, counted as far as `FEW`."""
    if getattr(task.source, "fixed", False):
        return FEW
    try:
        pairs: Pairs = task.source.pairs(split, task.make)
    except EmptySplitError:
        return 0
    except UserError:  # said where the split is used
        return FEW
    seen = set[str]()
    for i in range(len(pairs)):
        seen.add(pixel_hash(pairs.sources(i)[0]) if hasattr(pairs, "sources") else pairs.id(i))
        if len(seen) == FEW:
            break
    return len(seen)
