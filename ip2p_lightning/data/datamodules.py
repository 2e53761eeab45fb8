"""Tasks and their mixtures as Lightning data modules: a single task is a mixture of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ip2p_lightning.data.base_datamodule import TasksDataModule
from ip2p_lightning.data.batch_sampler import checked_weights
from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.degradations.low_light import LowLight
from ip2p_lightning.data.degradations.noise import SensorNoise
from ip2p_lightning.data.degradations.rain import Rain
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.data.sources.base import Maker, Source
from ip2p_lightning.data.sources.photos import Photos
from ip2p_lightning.data.teachers.cartoon import Cartoonizer
from ip2p_lightning.errors import UserError

_DEFAULT_LOADER = Loader()


class EditDataModule(TasksDataModule):
    """One task: where its pairs come from, how one side is made, and its prompts.

    source: of the pairs; None: the photos that come with scikit-image.
    prompts: the task's instructions; None: one sentence that belongs to the task.
    make: degradation or teacher, for sources that hold one side only; None: the task's own.
    flip: probability of a left-right flip in training; prompts that name a side are never flipped.
    seed: of order, crops, degradations and prompts.
    loader: sizes, crops and workers. name: what the task is called; None: the class's own name for it.
    """

    task = "edit"
    prompt = "edit the image"
    maker: ClassVar[type[Any] | None] = None
    """The class of the task's own degradation or teacher; None: the source must hold both sides."""

    def __init__(
        self,
        source: Source | None = None,
        prompts: PromptPool | None = None,
        make: Maker | None = None,
        flip: float = 0.5,
        loader: Loader = _DEFAULT_LOADER,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(loader, seed)
        if not 0 <= flip <= 1:
            raise UserError(f"flip={flip}: give a probability within [0, 1]")
        self.task = name or type(self).task
        self.source: Source = Photos() if source is None else source
        self.prompts = PromptPool([type(self).prompt]) if prompts is None else prompts
        self.make = self.maker() if make is None and self.maker else make
        self.flip = flip

    @property
    def active(self) -> dict[str, EditDataModule]:
        return {self.task: self}


class CartoonDataModule(EditDataModule):
    """Photo to cartoon."""

    task = "cartoon"
    prompt = "turn it into a cartoon"
    maker = Cartoonizer


class DerainDataModule(EditDataModule):
    """Rain removal."""

    task = "derain"
    prompt = "remove the rain"
    maker = Rain


class DenoiseDataModule(EditDataModule):
    """Noise removal."""

    task = "denoise"
    prompt = "remove the noise"
    maker = SensorNoise


class LowLightDataModule(EditDataModule):
    """Brightening of dark photos."""

    task = "lowlight"
    prompt = "brighten the photo"
    maker = LowLight


class DeblurDataModule(EditDataModule):
    """Sharpening of blurred photos; it has no degradation of its own, so its source must hold both sides."""

    task = "deblur"
    prompt = "sharpen the photo"


class MixtureDataModule(TasksDataModule):
    """Several tasks in one training, mixed by weight. Raises UserError: an unknown task or an impossible weight.

    tasks: the tasks by name; the name replaces the task's own. Their loaders and seeds are not used.
    weights: share of each in an epoch, any scale; a task that is not named weighs 1, one of weight 0 is left out (its
        data is not even opened). None: equal.
    loader, seed: for all tasks.
    """

    def __init__(
        self,
        tasks: Mapping[str, EditDataModule],
        weights: Mapping[str, float] | None = None,
        loader: Loader = _DEFAULT_LOADER,
        seed: int = 0,
    ) -> None:
        super().__init__(loader, seed)
        self.tasks = dict(tasks)
        self._weights = checked_weights(weights, list(self.tasks))

    @property
    def active(self) -> dict[str, EditDataModule]:
        return {name: self.tasks[name] for name in self._weights}

    @property
    def weights(self) -> dict[str, float]:
        return dict(self._weights)
