"""loader.merge=auto: what it chooses, that the choice changes no loss and is kept, and what it refuses."""

import gc
import json

import pytest

from ip2p_lightning.data import Loader
from ip2p_lightning.errors import UserError
from ip2p_lightning.runs.folder import read_config, read_status
from ip2p_lightning.training.memory.estimate import SPARE, decided, describe_memory, estimate
from tests.support.configs import config_of
from tests.support.ranks import WORDS, train
from tests.support.trained import train_run

GPU = ["model=sd15", "trainer=gpu", "trainer.precision=32-true", "val_every=0"]  # a step of 4 x 2
STEP = [
    "trainer.accumulate_grad_batches=4",
    "trainer.max_steps=3",
    "log_every=1",
    "save_every=1",
    "loader.batch_size=1",
]


@pytest.fixture
def room(monkeypatch):
    """Set how many GiB the device has."""
    return lambda there: monkeypatch.setattr("ip2p_lightning.training.memory.estimate.room", lambda config: there)


@pytest.fixture
def words(sd_folder):
    return ["model=local", f"model.path={sd_folder}", "task=denoise", "loader.resize=null", *STEP]


def losses(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def needed(number: int) -> float:
    return estimate(config_of(*GPU, f"loader.merge={number}")).total / (1 - SPARE)


def test_the_largest_divisor_that_fits_is_chosen(room):
    config = config_of(*GPU, "loader.merge=auto")
    for there, chosen in ((80.0, 4), (needed(4) + 0.01, 4), (needed(4) - 0.01, 2), (needed(2) - 0.01, 1), (None, 1)):
        room(there)
        assert decided(config)["loader"]["merge"] == chosen
    six = config_of(*GPU, "loader.merge=auto", "trainer.accumulate_grad_batches=6")
    room(needed(4) + 0.01)
    assert decided(six)["loader"]["merge"] == 3  # 4 would fit, and does not divide


def test_checkpointing_is_decided_for_one_micro_batch(room):
    """It costs time, merging saves some: it does not go on to make room for merging."""
    config = config_of(*GPU, "loader.merge=auto", "model.gradient_checkpointing=auto")
    room(needed(2) - 0.01)
    assert decided(config)["model"]["gradient_checkpointing"] is False and decided(config)["loader"]["merge"] == 1
    room(needed(1) - 0.01)
    chosen = decided(config)
    assert chosen["model"]["gradient_checkpointing"] is True and chosen["loader"]["merge"] > 1
    assert describe_memory(config).endswith(f"gradient checkpointing on; loader.merge {chosen['loader']['merge']}")


def test_ranks_on_one_cpu_share_its_memory():
    from ip2p_lightning.training.memory.estimate import room

    cpu = {"accelerator": "cpu", "strategy": "ddp"}
    one, two = (room({"trainer": {**cpu, "devices": n}}) for n in (1, 2))
    assert one == 2 * two


def test_the_choice_changes_no_loss_and_a_continued_run_keeps_it(words, tmp_path, room, capsys):
    apart = train_run(tmp_path / "apart", *words)
    room(80.0)
    run = train_run(tmp_path / "auto", *words, "trainer.max_steps=2", "loader.merge=auto")
    assert read_status(run)["merge"] == 4 and read_config(run)["loader"]["merge"] == "auto"
    assert "loader.merge=auto: 4 of 4 micro-batches run as one" in capsys.readouterr().out
    gc.collect()  # its folder is held until its objects are gone
    room(0.1)
    train_run(run, *words, "loader.merge=auto", "resume_allow=[trainer.max_steps]")
    assert read_status(run)["merge"] == 4 and read_status(run)["step"] == 3
    assert losses(run) == pytest.approx(losses(apart), abs=1e-6)
    gc.collect()
    whole = train_run(tmp_path / "whole", *words, "loader.merge=4")
    assert losses(run) == losses(whole)


def test_a_place_that_would_be_lost_is_refused(words, tmp_path, room, capsys):
    run = train_run(tmp_path / "run", *words, "trainer.max_steps=1", "loader.merge=4")
    gc.collect()
    allowed = "resume_allow=[trainer.max_steps,loader.merge,trainer.accumulate_grad_batches]"
    room(0.1)
    for more, said in (
        (["loader.merge=2"], "this run took 4 micro-batches as one, now it would take 2; go on with loader.merge=4"),
        (["loader.merge=auto"], "this run took 4 micro-batches as one, now it would take 1; go on with loader.merge=4"),
    ):
        with pytest.raises(AssertionError, match="ended with 2"):
            train_run(run, *words, *more, allowed)
        assert said in capsys.readouterr().err
        gc.collect()


def test_an_accumulation_that_the_choice_does_not_divide_is_refused(words, tmp_path, room, capsys):
    room(80.0)
    run = train_run(tmp_path / "run", *words, "trainer.max_steps=1", "loader.merge=auto")
    gc.collect()
    allowed = "resume_allow=[trainer.max_steps,trainer.accumulate_grad_batches]"
    with pytest.raises(AssertionError, match="ended with 2"):
        train_run(run, *words, "loader.merge=auto", "trainer.accumulate_grad_batches=6", allowed)
    assert "does not divide trainer.accumulate_grad_batches=6; give a multiple of 4" in capsys.readouterr().err


def test_two_ranks_take_one_number(tmp_path):
    code, said = train(tmp_path / "run", "loader.merge=auto", "model.balance_tasks=false", words=WORDS)
    assert code == 0, said
    assert said.count("loader.merge=auto: 2 of 2") == 1 and read_status(tmp_path / "run")["merge"] == 2
    assert read_status(tmp_path / "run")["step"] == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["loader.merge=x"], "loader.merge=x has the wrong type or value: expected an integer or one of auto"),
        (
            ["loader.merge=auto", "model.balance_tasks=true"],
            "loader.merge=auto and model.balance_tasks=True: .*=1",
        ),
        ([*GPU, "loader.merge=auto", "model.compile=graphs"], "loader.merge=auto: .*equal to the accumulation"),
    ],
)
def test_what_cannot_be_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        config_of(*words)


def test_a_loader_says_what_a_number_may_be():
    with pytest.raises(UserError, match=r"loader\.merge=0: give a whole number, 1 or more, or auto"):
        Loader(merge=0)
