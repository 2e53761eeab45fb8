"""Runs that are killed, stopped, broken and continued end where the undisturbed run ends, bit for bit."""

import contextlib
import copy
import functools
import json
import re
import shlex
import shutil
import signal

import pytest
import torch

from ip2p_lightning.errors import UserError
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import RunFolder, read_config, read_status
from ip2p_lightning.runs.resume import adopt, free_differences
from ip2p_lightning.system.files import read_json
from tests.support.configs import config_of
from tests.support.drilling import Victim, losses, samples, samples_told, survived
from tests.support.pieces import write_pairs
from tests.support.processes import QUIET, SMALL, Process, digest, run
from tests.support.trained import logged

STEPS, WINDOW = 6, 4


@pytest.fixture(scope="module")
def words(sd_folder):
    """Four tasks, workers, flips, crops, dropout of the conditions, accumulation, EMA."""
    recipe = [*SMALL, *QUIET, "model=local", f"model.path={sd_folder}", "model.drop=0.05", "model.ema=0.99"]
    recipe += [f"trainer.max_steps={STEPS}", f"trainer.accumulate_grad_batches={WINDOW}", "save_every=2", "log_every=1"]
    return [*recipe, "optimizer.lr=1e-3", "loader.batch_size=1", "loader.workers=2", "callbacks=[default,sample_log]"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The run that nothing happens to."""
    work = tmp_path_factory.mktemp("whole")
    code, said = run([*words, f"hydra.run.dir={work}/run"], work / "log")
    assert code == 0, said
    return work / "run"


@pytest.fixture(scope="module")
def begun(words, tmp_path_factory):
    """A run of which four of six steps are done."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    go(folder, words, "fault=kill@step=5")
    return folder


def go(folder, words, *more):
    return run([*words, *more, f"hydra.run.dir={folder}"], folder.parent / "log")


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


def test_a_run_may_be_moved_and_its_workers_be_more_or_fewer(begun, words, whole, tmp_path):
    there = shutil.copytree(begun, tmp_path / "elsewhere")
    loaded = checkpoint.checkpoints(there)[0]
    before = loaded.read_bytes()
    assert go(there, words, "loader.workers=1", "fault=kill@step=5")[0] == -signal.SIGKILL
    assert checkpoint.checkpoints(there)[0] == loaded and loaded.read_bytes() == before  # not saved again
    assert go(there, words, "loader.workers=0")[0] == 0
    assert digest(there) == digest(whole)
    assert not [p for p in there.iterdir() if p.is_file() and str(begun) in p.read_text(errors="replace")]


def test_a_stop_inside_any_micro_step_of_a_window_loses_nothing(words, whole, tmp_path):
    folder = tmp_path / "run"
    for window in range(WINDOW):
        again = ";term@ckpt_write=0.5" if window else ""  # a second stop inside the save
        code, said = go(folder, words, f"fault=term@micro_step={window * WINDOW + window}{again}")
        status = read_status(folder)
        assert (code, status["state"], status["exit_code"]) == (143, "preempted", 143), said
        assert f"SIGTERM at step {window + 1}" in status["reason"] and "Traceback" not in said
        newest = checkpoint.checkpoints(folder)[0]
        assert checkpoint.step_of(newest) == window + 1 and not checkpoint.damage(newest)
        assert not list(newest.parent.glob(".tmp-*"))
    assert go(folder, words)[0] == 0
    assert digest(folder) == digest(whole)
    assert losses(folder) == losses(whole)  # no step was done twice


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


def test_exceptions_are_recorded_and_survived(tmp_path):
    words = [*SMALL, "model=tiny", "task=denoise", "callbacks.image_grids.examples=0", "trainer.max_steps=5"]
    words += ["save_every=2", "val_every=2"]
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


CHANGES = {"optimizer.lr=2e-3": "optimizer.lr: 0.001 -> 0.002", "loader.size=64": "loader.size: 32 -> 64"}
CHANGES |= {"loader.batch_size=2": "steps see 1 x 4 x 1 = 4 examples", "trainer.max_steps=9": "max_steps: 6 -> 9"}
CHANGES |= {"trainer.accumulate_grad_batches=2": "now they would see 1 x 2 x 1 = 2; divide 4", "seed=1": "seed: 0 -> 1"}
CHANGES |= {"optimizer.betas=[0.8,0.99]": "optimizer.betas[0]: 0.9 -> 0.8"}
CHANGES |= {"task=derain": "task.", "prompts=name": "prompts."}


@pytest.mark.parametrize(("word", "told"), CHANGES.items())
def test_a_changed_config_is_refused_by_name_with_the_way_out(begun, words, word, told, tmp_path):
    before = (begun / "config.json").read_bytes()
    with pytest.raises(UserError) as refusal:
        adopt(RunFolder(begun), config_of(*words, word), "auto", [])
    line, many = str(refusal.value), word.startswith(("task", "prompts"))
    assert told in line and ("resume_allow=[" in line) != many and line.count(" -> ") <= 3
    assert len(line) < 700 and (f"hydra.run.dir={begun}-2" in line or "loader" in line)
    if not many:
        allow = config_of(*words, *shlex.split(re.search(r"'resume_allow=\[.*?\]'", line)[0]))["resume_allow"]
        folder = shutil.copytree(begun, tmp_path / "run")
        assert adopt(RunFolder(folder), config_of(*words, word), "auto", allow)
    assert (begun / "config.json").read_bytes() == before


def test_what_is_allowed_admits_its_copies_and_nothing_else():
    base = {"optimizer": {"lr": 1}, "text": {"lr": 1}, "loader": {"size": 1, "workers": 0}, "data": {"root": "a"}}
    base |= {"unet": {"path": "x"}, "model": {"path": "x"}, "prompts": {"derain": {"prompts": ["p"], "limit": None}}}
    tasks = {"derain": {"loader": base["loader"], "source": base["data"], "prompts": base["prompts"]["derain"]}}
    base |= {"seed": 0, "text_encoder": {"seed": 0}, "task": {"tasks": tasks, "loader": base["loader"], "seed": 0}}

    def asked(allow, *changes):
        new = copy.deepcopy(base)
        for *path, key, value in changes:
            functools.reduce(lambda node, name: node[name], path, new)[key] = value
        return set(free_differences(base, new, allow))

    base, sub = json.loads(json.dumps(base)), ("task", "tasks", "derain")  # nothing is shared
    assert asked(["optimizer.lr"], ("optimizer", "lr", 2), ("text", "lr", 2)) == {"text.lr"}
    assert asked(["loader.size"], ("loader", "size", 2), (*sub, "loader", "size", 2)) == set()
    assert asked(["loader.size"], ("loader", "size", 2), (*sub, "loader", "size", 3)) == {
        f"{'.'.join(sub)}.loader.size"
    }
    assert asked([], ("loader", "workers", 2), ("task", "loader", "workers", 2)) == set()
    assert asked(["data"], ("data", "root", "b"), (*sub, "source", "root", "b"), ("model", "path", "b")) == {
        "model.path"
    }
    assert asked(["model.path"], ("model", "path", "y"), ("unet", "path", "y")) == set()
    assert asked(["unet.path"], ("model", "path", "y"), ("unet", "path", "y")) == {"model.path"}
    assert asked(["seed"], ("seed", 1), ("text_encoder", "seed", 1), ("task", "seed", 1)) == set()
    pool = ("prompts", "derain", "prompts", ["q"]), (*sub, "prompts", "prompts", ["q"])
    assert asked(["prompts"], *pool) == set() and asked([], *pool) == {"prompts.derain.prompts[0]"}


@pytest.mark.parametrize(
    ("allow", "admitted"),
    [([], False), (["trainer.devices"], False), (["loader"], True), (["loader.batch_size"], True)],
)
def test_another_size_of_a_step_is_admitted_by_what_makes_it(begun, words, tmp_path, allow, admitted):
    folder = shutil.copytree(begun, tmp_path / "run")
    with contextlib.nullcontext() if admitted else pytest.raises(UserError, match=r"loader\.batch_size\]"):
        adopt(RunFolder(folder), config_of(*words, "loader.batch_size=3"), "auto", allow)


def trained(folder, step=STEPS):
    content = checkpoint.load(folder / checkpoint.FOLDER / f"step-{step:06d}.ckpt")
    return torch.cat([weight.double().flatten() for weight in content["state_dict"].values()])


HALVES = ["loader.batch_size=2", "trainer.accumulate_grad_batches=2"]
RANKS = ["+trainer.strategy=ddp", "trainer.devices=2", "trainer.accumulate_grad_batches=2"]


@pytest.mark.parametrize("split", [HALVES, pytest.param(RANKS, marks=pytest.mark.slow)], ids=["micro-batches", "ranks"])
def test_a_run_goes_on_with_its_steps_divided_in_another_way(begun, whole, words, tmp_path, split):
    folder = shutil.copytree(begun, tmp_path / "run")
    code, said = go(folder, words, *split)
    assert code == 0 and read_status(folder)["step"] == STEPS, said
    far = (trained(whole) - trained(begun, 4)).norm()
    assert 0 < (trained(folder) - trained(whole)).norm() <= 1e-3 * far
    for step, found in losses(folder).items():
        assert max(found) == pytest.approx(max(losses(whole)[step]), rel=1e-4)


def test_a_change_that_is_allowed_is_made_and_recorded(begun, words, tmp_path):
    folder = shutil.copytree(begun, tmp_path / "run")
    code, said = go(folder, words, "optimizer.lr=2e-3")
    assert code == 2 and "resume_allow=[optimizer.lr]" in said, said
    code, said = go(folder, words, "optimizer.lr=2e-3", "resume_allow=[optimizer.lr]")
    assert code == 0, said
    rates = logged(folder, "train/lr")
    assert rates[4] == 1e-3 and rates[6] == 2e-3
    assert read_config(folder)["optimizer"]["lr"] == 2e-3


def test_data_may_be_moved_but_neither_be_changed_nor_grow_unasked(tmp_path):
    root, folder = write_pairs(tmp_path / "pairs", 8, size=48), tmp_path / "run"
    words = [*SMALL, *QUIET, "model=tiny", "data=folder", "task=own", "task.name=sepia", "trainer.max_steps=4"]
    words += ["task.prompts.prompts=[make it sepia]", "save_every=2"]
    assert go(folder, words, f"data.root={root}", "fault=kill@step=3")[0] == -signal.SIGKILL

    path = root / "train/target/0000.png"
    intact = path.read_bytes()
    path.write_bytes(intact + b"\0")  # one byte, behind the image: the pixels stay
    code, said = go(folder, words, f"data.root={root}")
    assert code == 3 and "the data is not what this run began with" in said and "sepia/" in said, said
    path.write_bytes(intact)

    for path in root.rglob("*.png"):
        path.touch()
    words.append(f"data.root={root.rename(tmp_path / 'moved')}")
    code, said = go(folder, words, "resume_allow=[data.root]", "fault=kill@step=3")
    assert code == -signal.SIGKILL, said

    for side in ("input", "target"):
        shutil.copy(tmp_path / f"moved/train/{side}/0000.png", tmp_path / f"moved/train/{side}/zero.png")
    code, said = go(folder, words)
    assert code == 3 and "zero (edited) added" in said, said
    assert go(folder, words, "resume_allow=[data]")[0] == 0
    assert any("zero" in n for place in read_json(folder / "data.json").values() for n in place["parts"])
