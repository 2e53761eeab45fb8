"""Data modules: what a batch is, and that it is the same with workers, ranks and restarts."""

import shutil
from shutil import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.datamodules import (
    CartoonDataModule,
    DeblurDataModule,
    DenoiseDataModule,
    DerainDataModule,
    EditDataModule,
    LowLightDataModule,
    MixtureDataModule,
)
from ip2p_lightning.data.example import EditExample, Photos
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.data.sources.base import EmptySplitError
from ip2p_lightning.data.sources.folder import Folder
from ip2p_lightning.errors import UserError
from tests.support.material import pairs_folder
from tests.support.pieces import write_pairs


class Noise:
    """A degradation that shows the generator it was given."""

    def __call__(self, image, rng):
        return np.clip(image + rng.normal(0, 0.1, image.shape).astype(np.float32), 0, 1)


class NoSource:
    def pairs(self, split, make=None):
        raise AssertionError("opened")


def module(name: str = "fog", **options) -> EditDataModule:
    loader = Loader(**{"batch_size": 4, "size": 32, "eval_size": 32, "epoch_size": 12, **options})
    return EditDataModule(make=Noise(), prompts=PromptPool(["clear the air", "lift the fog"]), loader=loader, name=name)


def mixture(**options) -> MixtureDataModule:
    loader = Loader(**{"batch_size": 4, "size": 32, "eval_size": 32, "epoch_size": 24, **options})
    tasks = {"fog": module(), "dust": module(), "none": EditDataModule(NoSource())}
    return MixtureDataModule(tasks, {"fog": 1, "dust": 2, "none": 0}, loader)


def test_few_photos_are_said_and_a_task_without_one_is_not_validated(tmp_path):
    for count, split in ((5, "train"), (2, "val"), (3, "test")):
        pairs_folder(tmp_path / "two" / split, count, size=(32, 32))
    pairs_folder(tmp_path / "none" / "train", 4, size=(32, 32))
    for side in ("input", "target"):  # the same photo once more
        copy(tmp_path / "two" / "val" / side / "p00000.png", tmp_path / "two" / "val" / side / "again.png")
    tasks = {name: EditDataModule(Folder(str(tmp_path / name))) for name in ("two", "none")} | {"demo": module()}
    data = MixtureDataModule(tasks, loader=Loader(size=32, eval_size=32))
    with pytest.raises(EmptySplitError, match="no 'val' folder"):
        data.datasets("val")
    data.setup("fit")
    assert data.datasets("val").sizes == {"two": 3, "demo": 1}
    line = data.few_photos(("train", "val", "test"))
    assert "(two: 2 in val; none: no in val, no in test), their scores say little" in line and "demo" not in line
    assert module().few_photos(("train", "val", "test")) == ""
    with pytest.raises(EmptySplitError, match="no 'test' folder"):
        data.datasets("test")


def same(a: EditExample, b: EditExample) -> bool:
    return a[2:] == b[2:] and torch.equal(a.original, b.original) and torch.equal(a.edited, b.edited)


def attach(data, done: int = 0, rank: int = 0, world: int = 1, overfit: float = 0):
    """Lend the module what it asks of a trainer, which knows no end: an epoch at a time."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=done))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, overfit_batches=overfit, max_steps=-1)
    data.trainer.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return data


def shown(data) -> list[tuple[str, str]]:
    return [key for batch in data.test_dataloader() for key in zip(batch.task, batch.id, strict=True)]


def test_a_batch() -> None:
    batch = next(iter(module().train_dataloader()))
    assert isinstance(batch, EditExample)
    assert batch.original.shape == batch.edited.shape == (4, 3, 32, 32) and batch.original.dtype == torch.float32
    assert -1 <= batch.original.min() < batch.original.max() <= 1
    assert list(batch.task) == ["fog"] * 4 and len(batch.prompt) == len(batch.id) == 4


@pytest.mark.parametrize("task", [CartoonDataModule, DenoiseDataModule, DerainDataModule, LowLightDataModule])
def test_tasks_work_without_arguments(task: type[EditDataModule]) -> None:
    data = task()
    batch = next(iter(data.train_dataloader()))
    assert batch.original.shape == (12, 3, 64, 64) and set(batch.task) == {task.task}
    assert list(data.active) == [task.task] and data.shares == {task.task: 1.0}
    assert next(iter(data.val_dataloader())).original.shape == (1, 3, 256, 256)


def test_the_teacher_makes_the_edited_side() -> None:
    """And a degradation the original: the other side is the photo itself."""
    plain = EditDataModule(make=lambda image, rng: image).fixed_examples(1)[0].original
    cartoon, rain = CartoonDataModule().fixed_examples(1)[0], DerainDataModule().fixed_examples(1)[0]
    assert torch.equal(cartoon.original, plain) and not torch.equal(cartoon.edited, plain)
    assert torch.equal(rain.edited, plain) and not torch.equal(rain.original, plain)


def test_workers_change_nothing() -> None:
    runs = [list(mixture(workers=workers, resize=[32, 48]).train_dataloader()) for workers in (0, 2)]
    assert len(runs[0]) == len(runs[1]) == 6
    assert all(same(a, b) for a, b in zip(*runs, strict=True))


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    list(module(workers=1).train_dataloader())
    list(module().val_dataloader())
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()


def test_a_restart_goes_on_bit_for_bit() -> None:
    data = attach(mixture(), 0)
    whole = list(data.train_dataloader()) + list(attach(data, 6).train_dataloader())
    for done in (1, 4, 6, 8):
        rest = list(attach(mixture(), done).train_dataloader())
        assert all(same(a, b) for a, b in zip(rest, whole[done:], strict=False)) and rest
    assert not same(whole[0], whole[6])


def test_evaluation_over_ranks_repeats_nothing() -> None:
    alone = shown(mixture(eval_draws=3))
    shared = [key for rank in range(5) for key in shown(attach(mixture(eval_draws=3), rank=rank, world=5))]
    assert len(alone) == 2 * 2 * 3 and sorted(alone) == sorted(shared)


def test_every_photo_once_an_epoch() -> None:
    data = module(epoch_size=None, batch_size=2)
    for epoch in range(2):
        names = [name for batch in attach(data, 3 * epoch).train_dataloader() for name in batch.id]
        assert len(names) == len(set(names)) == 6


def test_overfitting_sees_the_same_batches() -> None:
    assert same(*(next(iter(attach(module(), done, overfit=1).train_dataloader())) for done in (0, 7)))


def test_validation_is_fixed_and_limited() -> None:
    first, again = (list(attach(mixture(eval_draws=2), done).val_dataloader()) for done in (0, 5))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].original[0], first[0].original[1])  # two draws
    data = module(eval_draws=1)
    assert sum(len(batch.id) for batch in data.evaluation("train")) == 6
    assert sum(len(batch.id) for batch in data.evaluation("train", examples=2)) == 2
    data.val_examples = 0
    assert len(data.val_dataloader()) == 0


def test_held_out_prompts() -> None:
    pool = PromptPool(["make it a cartoon"], held_out=["morph it into an animation"])
    data = EditDataModule(make=Noise(), prompts=pool, loader=Loader(eval_size=32))
    assert [p for batch in data.evaluation("test") for p in batch.prompt] == ["make it a cartoon"] * 2
    held_out = list(data.evaluation("test", held_out_prompts=True))
    assert [p for batch in held_out for p in batch.prompt] == ["morph it into an animation"] * 2
    assert torch.equal(held_out[0].original, next(iter(data.test_dataloader())).original)


def test_whole_images_for_evaluation() -> None:
    data = module(eval_size=None)
    assert [tuple(batch.original.shape) for batch in data.test_dataloader()] == [(1, 3, 512, 512), (1, 3, 400, 600)]


def test_mixture_shares_and_idle_tasks() -> None:
    data = mixture()
    assert data.shares == {"fog": 1 / 3, "dust": 2 / 3} and list(data.active) == ["fog", "dust"]
    data.setup("fit")  # the task of weight 0 is not opened
    tasks = [task for batch in data.train_dataloader() for task in batch.task]
    assert tasks.count("fog") == 8 and tasks.count("dust") == 16


def test_fixed_examples() -> None:
    examples = mixture().fixed_examples(3)
    assert [example.task for example in examples] == ["fog"] * 3 + ["dust"] * 3
    assert len({example.original.numpy().tobytes() for example in examples}) == 6


def test_examples_to_show_are_of_different_photos_first() -> None:
    def example(pair: str, original: float, edited: float) -> EditExample:
        return EditExample(torch.full((3, 2, 2), original), torch.full((3, 2, 2), edited), "p", "t", pair)

    photos = Photos(3)  # two edits of one photo, two degradations of another, a second draw of a pair, a third photo
    for name, pair in enumerate(
        [("a", 0, 1), ("b", 0, 2), ("c", 3, 4), ("d", 5, 4), ("a", 6, 1), ("e", 7, 8), ("f", 9, 9)]
    ):
        photos.see(example(*pair), name)
    assert photos.count == 4 and photos.chosen == [0, 2, 5]
    few = Photos(3)
    assert [few.see(example(*pair), pair) for pair in (("a", 0, 1), ("b", 0, 2))] == [True, False] and len(
        few.chosen
    ) == 2


def test_grids_show_each_photo_of_a_folder_before_a_second_edit_of_it(tmp_path) -> None:
    write_pairs(tmp_path, 4)
    for name in ("0001", "0002"):  # three edits of the first photo
        shutil.copy(tmp_path / "train/input/0000.png", tmp_path / f"train/input/{name}.png")
    data = EditDataModule(Folder(str(tmp_path)), flip=0, loader=Loader(size=32, crop="center"))
    assert [example.id for example in data.fixed_examples(2, "train")] == ["0000", "0003"]
    assert [example.id for example in data.fixed_examples(3, "train")] == ["0000", "0003", "0001"]


def test_refusals() -> None:
    with pytest.raises(UserError, match="one side of a pair only"):
        DeblurDataModule().setup("fit")
    with pytest.raises(UserError, match="did you mean 'fog'"):
        MixtureDataModule({"fog": EditDataModule()}, {"fogg": 1})
    with pytest.raises(UserError, match="all are 0"):
        MixtureDataModule({"fog": EditDataModule()}, {"fog": 0})


BAD = [{"batch_size": 0}, {"size": 30}, {"crop": "middle"}, {"workers": -1}, {"eval_draws": 0}, {"epoch_size": 0}]
BAD += [{"timeout": -1}, {"max_bad": -1}, {"size": 64, "resize": [32, 40]}, {"eval_size": None, "eval_batch_size": 4}]
BAD += [{"eval_size": 8}]


@pytest.mark.parametrize("options", BAD, ids=str)
def test_bad_loaders(options: dict) -> None:
    with pytest.raises(UserError):
        Loader(**options)
