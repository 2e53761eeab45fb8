"""Runs that are killed, stopped, broken and continued end where the undisturbed run ends, bit for bit."""

import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_config, read_status
from ip2p_lightning.system.files import read_json
from tests.support.drilling import Victim, losses, samples, samples_told, survived
from tests.support.processes import QUIET, SMALL, Process, digest, run

STEPS, WINDOW = 6, 4


@pytest.fixture(scope="module")
def words(sd_folder):
    """Four tasks, workers, flips, crops, dropout of the conditions, accumulation, EMA."""
    recipe = [
        *SMALL,
        *QUIET,
        "model=local",
        f"model.path={sd_folder}",
        "model.drop=0.05",
        "model.ema=0.99",
        "loader.workers=2",
    ]
    recipe += [f"trainer.max_steps={STEPS}", f"trainer.accumulate_grad_batches={WINDOW}", "save_every=2", "log_every=1"]
    return [*recipe, "optimizer.lr=1e-3", "loader.batch_size=1", "callbacks=[default,sample_log]"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The run that nothing happens to."""
    work = tmp_path_factory.mktemp("whole")
    code, said = run([*words, f"hydra.run.dir={work}/run"], work / "log")
    assert code == 0, said
    return work / "run"


def go(folder, words, *more, **environment):
    return run([*words, *more, f"hydra.run.dir={folder}"], folder.parent / "log", **environment)


# -- kills -----------------------------------------------------------------------------------------------------------


def test_kills_inside_windows_and_inside_a_save_change_nothing(words, whole, tmp_path):
    faults = ("kill@micro_step=5", "kill@micro_step=10", "kill@ckpt_write=0.5", "kill@micro_step=23")
    victim = Victim(tmp_path / "run", words)
    found = survived(victim, digest(whole), *([f"fault={fault}"] for fault in faults), ())
    ends = ["-9 running"] * 4 + ["0 complete"]  # nobody was left to say otherwise
    assert found == {"ends": ends, "damaged": 0, "left over": 0, "digest equal": True}
    once = {step: set(values) for step, values in losses(victim.folder).items()}
    assert once == {step: set(values) for step, values in losses(whole).items()}  # what is done again is the same
    told = samples_told(victim.folder, whole, STEPS * WINDOW)
    assert [value for value in told.values() if not isinstance(value, str)] == [0, 0, True, 0, 0], told
    assert len((victim.folder / "samples.jsonl").read_text().splitlines()) > 24
    assert not (tmp_path / "run@2").exists()  # workers that outlived their run did not hold its folder


def test_an_epoch_shows_every_pair_of_every_task_once(whole):
    told = samples_told(whole, whole, STEPS * WINDOW)  # 4 x 6 photos in batches of one: 24 micro-steps are an epoch
    assert told["epochs"] == "1 of 24 pairs, and 0 samples of the next" and told["pairs twice in an epoch"] == 0
    assert [line["step"] for line in samples(whole)[0].values()] == [1 + n // WINDOW for n in range(24)]


def test_the_number_of_workers_may_change_on_the_way(words, whole, tmp_path):
    starts = ["fault=kill@step=3"], ["loader.workers=0", "fault=kill@step=5"], ["loader.workers=1"]
    found = survived(Victim(tmp_path / "run", words), digest(whole), *starts)
    assert found["digest equal"] and found["ends"] == ["-9 running", "-9 running", "0 complete"]


def test_a_run_may_be_moved(words, whole, tmp_path):
    there = tmp_path / "elsewhere"
    go(tmp_path / "run", words, "fault=kill@step=3")
    (tmp_path / "run").rename(there)
    assert go(there, words)[0] == 0
    assert digest(there) == digest(whole)
    named = str(tmp_path / "run")
    assert not [p for p in there.iterdir() if p.is_file() and named in p.read_text(errors="replace")]


def test_a_damaged_newest_checkpoint_is_gone_back_from(words, whole, tmp_path):
    folder = tmp_path / "run"
    go(folder, words, "fault=kill@step=5")
    newest = checkpoint.checkpoints(folder)[0]
    data = newest.read_bytes()
    newest.write_bytes(data[:9000] + bytes([data[9000] ^ 1]) + data[9001:])
    code, said = go(folder, words)
    assert code == 0 and "do not match its sha256" in said and said.count("step-000004.ckpt:") == 1, said
    assert digest(folder) == digest(whole)


def test_a_continued_run_does_not_save_again_what_it_loaded(words, whole, tmp_path):
    folder = tmp_path / "run"
    go(folder, words, "fault=kill@step=3")
    loaded = checkpoint.checkpoints(folder)[0]
    before = loaded.read_bytes()
    assert go(folder, words, "fault=kill@step=3")[0] == -signal.SIGKILL  # a step further, a window's micro-steps begun
    assert checkpoint.checkpoints(folder)[0] == loaded and loaded.read_bytes() == before
    assert go(folder, words, "fault=kill@ckpt_write=0.1")[0] == -signal.SIGKILL
    assert not checkpoint.damage(loaded)
    assert go(folder, words)[0] == 0
    assert digest(folder) == digest(whole) and not list((folder / checkpoint.FOLDER).glob("*.corrupt"))


# -- signals ---------------------------------------------------------------------------------------------------------


def test_a_stop_inside_any_micro_step_of_a_window_loses_nothing(words, whole, tmp_path):
    folder = tmp_path / "run"
    for window in range(WINDOW):
        code, said = go(folder, words, f"fault=term@micro_step={window * WINDOW + window}")
        status = read_status(folder)
        assert (code, status["state"], status["exit_code"]) == (143, "preempted", 143), said
        assert f"SIGTERM at step {window + 1}" in status["reason"] and "Traceback" not in said
        assert checkpoint.step_of(checkpoint.checkpoints(folder)[0]) == window + 1
    assert go(folder, words)[0] == 0
    assert digest(folder) == digest(whole)
    assert losses(folder) == losses(whole)  # no step was done twice


def test_a_second_stop_inside_the_save_harms_nothing(words, whole, tmp_path):
    folder = tmp_path / "run"
    code, said = go(folder, words, "fault=term@micro_step=5;term@ckpt_write=0.5")
    assert code == 143 and "SIGTERM at step 2" in said and not list((folder / checkpoint.FOLDER).glob(".tmp-*")), said
    assert not checkpoint.damage(checkpoint.checkpoints(folder)[0])
    assert go(folder, words)[0] == 0 and digest(folder) == digest(whole)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_other_signals_stop_it_too(words, tmp_path, number):
    process = Process([*words, "trainer.max_steps=5000", f"hydra.run.dir={tmp_path}/run"], tmp_path / "log")
    assert process.until(lambda: (tmp_path / "run/metrics.jsonl").exists())
    process.send(number)
    assert process.wait() == 143
    assert read_status(tmp_path / "run")["state"] == "preempted"
    assert not checkpoint.damage(checkpoint.checkpoints(tmp_path / "run")[0])


def test_a_second_ctrl_c_does_not_wait(words, tmp_path):
    slow = [*words, "trainer.max_steps=5000", "trainer.accumulate_grad_batches=1000"]
    process = Process([*slow, f"hydra.run.dir={tmp_path}/run"], tmp_path / "log")
    assert process.until(lambda: "step/s" in process.said())
    process.send(signal.SIGINT)
    process.until(lambda: "Ctrl-C again" in process.said())
    process.send(signal.SIGINT)
    assert process.wait(30) == 130
    assert read_status(tmp_path / "run")["state"] == "preempted"


# -- exceptions ------------------------------------------------------------------------------------------------------


def test_exceptions_are_recorded_and_survived(tmp_path):
    words = [
        *SMALL,
        "model=tiny",
        "task=denoise",
        "callbacks.image_grids.examples=0",
        "trainer.max_steps=5",
        "save_every=2",
        "val_every=2",
    ]
    assert go(tmp_path / "whole", words)[0] == 0
    folder = tmp_path / "run"
    faults = {"raise@step=1": 1, "raise@micro_step=1": 1, "raise@log=1": 1, "exit@step=3": 7, "raise@val=1": 1}
    for fault, code in (faults | {"enospc@ckpt_write=0.5": 5}).items():  # callback, step, logger, callback, validation
        got, said = go(folder, words, f"fault={fault}")
        status = read_status(folder)
        assert (got, status["state"], status["exit_code"]) == (code, "failed", code), said
        assert ("a fault was asked for" in status["reason"]) == (code == 1)
        assert ("No space left" in status["reason"] and "bytes free" in said) == (code == 5)
        assert not [p for p in checkpoint.checkpoints(folder) if checkpoint.damage(p)]
    assert go(folder, words)[0] == 0
    assert digest(folder) == digest(tmp_path / "whole")


# -- what changed ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(words, tmp_path_factory):
    """A run of which four of six steps are done."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    go(folder, words, "fault=kill@step=5")
    return folder


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("optimizer.lr=2e-3", "optimizer.lr: 0.001 -> 0.002"),
        ("loader.batch_size=2", "loader.batch_size: 1 -> 2"),
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches: 4 -> 2"),
        ("loader.size=64", "loader.size: 32 -> 64"),
        ("task=derain", "task."),
        ("seed=1", "seed: 0 -> 1"),
        ("prompts=name", "prompts."),
        ("trainer.max_steps=9", "trainer.max_steps: 6 -> 9"),
    ],
)
def test_a_changed_config_is_refused_by_name(begun, words, word, told):
    before = (begun / "config.json").read_bytes()
    code, said = go(begun, words, word)
    assert code == 2 and told in said and "resume_allow=[" in said, said
    assert (begun / "config.json").read_bytes() == before


def test_a_change_that_is_allowed_is_made_and_recorded(begun, words, tmp_path):
    folder = shutil.copytree(begun, tmp_path / "run")
    code, said = go(folder, words, "optimizer.lr=2e-3", "resume_allow=[optimizer.lr]")
    assert code == 0, said
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["train/lr"] for line in lines if "train/lr" in line}
    assert rates[4] == 1e-3 and rates[6] == 2e-3
    assert read_config(folder)["optimizer"]["lr"] == 2e-3


@pytest.fixture
def pairs(tmp_path):
    """A folder of pairs, and a run on it of which two of four steps are done."""
    rng = np.random.default_rng(0)
    for i in range(8):
        for side in ("input", "target"):
            path = tmp_path / "pairs" / side / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(path)
    own = [
        "data=folder",
        f"data.root={tmp_path}/pairs",
        "task=own",
        "task.name=sepia",
        "task.prompts.prompts=[make it sepia]",
    ]
    words = [*SMALL, *QUIET, "model=tiny", *own, "trainer.max_steps=4", "save_every=2"]
    assert go(tmp_path / "run", words, "fault=kill@step=3")[0] == -signal.SIGKILL
    return tmp_path, words


def test_changed_data_is_refused_by_name(pairs):
    work, words = pairs
    known = json.loads((work / "run/data.json").read_text())["sepia/train"]["parts"]
    name = next(n for n in known if n.endswith("(edited)")).split()[0]
    path = work / "pairs/target" / f"{name}.png"
    intact = path.read_bytes()
    path.write_bytes(intact + b"\0")  # one byte, behind the image: the pixels stay
    code, said = go(work / "run", words)
    assert code == 3 and "the data is not what this run began with" in said and "sepia/" in said, said
    path.write_bytes(intact)
    assert go(work / "run", words)[0] == 0


def test_added_data_is_refused_unless_it_is_allowed(pairs):
    work, words = pairs
    for side in ("input", "target"):
        shutil.copy(work / f"pairs/{side}/0.png", work / f"pairs/{side}/zero.png")
    code, said = go(work / "run", words)
    assert code == 3 and "zero (edited) added" in said, said
    assert go(work / "run", words, "resume_allow=[data]")[0] == 0
    assert any("zero" in n for place in read_json(work / "run/data.json").values() for n in place["parts"])


def test_data_that_was_touched_or_moved_is_the_same_data(pairs):
    work, words = pairs
    for path in (work / "pairs").rglob("*.png"):
        path.touch()
    (work / "pairs").rename(work / "moved")
    code, said = go(work / "run", words, f"data.root={work}/moved", "resume_allow=[data.root]")
    assert code == 0, said
