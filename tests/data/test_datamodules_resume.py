"""Under a real Trainer: stopped in the middle, continued, and the batches are those of the uninterrupted run."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.datamodules import EditDataModule
from ip2p_lightning.data.example import EditExample
from ip2p_lightning.data.prompts import PromptPool

pytestmark = pytest.mark.filterwarnings("ignore")


def noise(image, rng):
    return (image * rng.random()).astype("float32")


def data_module(workers: int) -> EditDataModule:
    loader = Loader(batch_size=2, size=32, eval_size=32, epoch_size=10, workers=workers)
    return EditDataModule(make=noise, prompts=PromptPool(["one thing", "another thing"]), loader=loader)


class Recorder(LightningModule):
    """Sums what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[str, float]] = []

    def training_step(self, batch: EditExample, index: int) -> torch.Tensor:
        self.seen.append((" ".join(batch.id + batch.prompt), float(batch.original.double().sum())))
        return self.weight.sum() * batch.original.mean()

    def validation_step(self, batch: EditExample, index: int) -> None:
        self.log("x", batch.original.mean(), batch_size=len(batch.id))

    def predict_step(self, batch: EditExample, index: int) -> int:
        return len(batch.id)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(steps: int, **options) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", devices=1, **quiet, **options)


def run(steps: int, workers: int = 0, checkpoint: str | None = None, save: str | None = None, **options) -> list:
    model, fitter = Recorder(), trainer(steps, **options)
    fitter.fit(model, data_module(workers), ckpt_path=checkpoint)
    if save:
        fitter.save_checkpoint(save)
    return model.seen


@pytest.mark.parametrize(("stop", "workers"), [(3, 0), (5, 2), (8, 0)], ids=["mid-epoch", "epoch end", "second epoch"])
def test_a_run_continues_where_it_stopped(tmp_path, stop: int, workers: int) -> None:
    whole, kept = run(12), str(tmp_path / "stop.ckpt")
    assert len({name for name, _ in whole}) > 6
    assert run(stop, save=kept) + run(12, workers, checkpoint=kept) == whole


def test_accumulation_validation_and_overfitting() -> None:
    # an epoch of 5 does not cut a window short
    assert run(3, accumulate_grad_batches=2, val_check_interval=2) == run(6)
    assert run(4, overfit_batches=1) == run(1) * 4


def test_predicting_and_validating() -> None:
    assert sum(trainer(1).predict(Recorder(), data_module(0))) == 2
    assert trainer(1).validate(Recorder(), data_module(0), verbose=False)[0]["x"] < 0
