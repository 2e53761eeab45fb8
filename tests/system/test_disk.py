"""Disks that are full, folders that may not be written, bytes that rot: said in a line, and nothing is lost."""

import json
import time
from types import SimpleNamespace

import pytest

from ip2p_lightning.cli.inspect import verified
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.system.files import append_line
from ip2p_lightning.training.callbacks import checkpointing
from ip2p_lightning.training.callbacks.sample_log import SampleLog
from tests.support.disks import fill, small_disk
from tests.support.drilling import losses
from tests.support.models import batch_of
from tests.support.pieces import write_pairs
from tests.support.processes import QUIET, SMALL, Process, digest, run
from tests.support.trained import logged

WORDS = [*SMALL, *QUIET, "model=tiny", "task=denoise", "save_every=2", "log_every=1", "trainer.max_steps=6"]


def go(folder, *more, **environment):
    return run([*WORDS, *more, f"hydra.run.dir={folder}"], folder.parent / "log", **environment)


def lines_of(said):
    """Without the bar and the lines about the cache and the data."""
    lines = said.replace("\r", "\n").splitlines()
    return [line for line in lines if line and not line.startswith(("train:", "cache:", "data:"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, said = go(folder)
    assert code == 0, said
    return folder


@pytest.fixture
def disk(tmp_path, whole):
    """A disk for two checkpoints and a half."""
    size = checkpoint.checkpoints(whole)[0].stat().st_size
    with small_disk(tmp_path / "disk", round(2.5 * size / 2**20)) as folder:
        yield folder


# -- full ------------------------------------------------------------------------------------------------------------


def test_no_room_for_the_third_checkpoint_is_said_with_what_it_needs(whole, disk):
    code, said = go(disk / "run", "keep=9")
    kept = checkpoint.checkpoints(disk / "run")
    size = kept[0].stat().st_size
    assert code == 5 and f"{disk}/run/checkpoints: {size} bytes needed, " in said and " free" in said, said
    assert len(lines_of(said)) == 1 and len(kept) == 2 and not [p for p in kept if checkpoint.damage(p)]
    assert read_status(disk / "run")["state"] == "failed"
    assert go(disk / "run", "keep=2")[0] == 5  # it still needs a third one before it may remove the first
    checkpointing.SafeCheckpointIO().remove_checkpoint(kept[1])
    assert go(disk / "run")[0] == 0
    assert digest(disk / "run") == digest(whole)


def test_a_disk_that_fills_up_under_the_logs_ends_the_run_in_one_line(disk):
    folder, log = disk / "run", disk / "run/metrics.jsonl"
    words = [*WORDS, "save_every=500", "trainer.max_steps=25", f"hydra.run.dir={folder}"]
    process = Process(words, disk.parent / "log")
    assert process.until(lambda: log.exists() and log.read_text().count("\n") > 2)
    filler = fill(disk)
    code = process.wait()
    (said,) = lines_of(process.said())
    assert code == 5 and said.startswith("error: cannot write ") and str(folder) in said and "0 bytes free" in said
    filler.unlink()
    code, said = run(words, disk.parent / "log")
    assert code == 0, said
    found = losses(folder)  # but of the line that the full disk cut
    assert sorted(found) == list(range(1, 26)) and all(len(set(values)) == 1 for values in found.values())


def cached(sd_folder, tmp_path):
    """The words of a run on pairs of its own that fills a cache."""
    root = write_pairs(tmp_path / "pairs", 8, size=48)
    words = ["model=local", f"model.path={sd_folder}", "data=folder", f"data.root={root}", "task=own", "cache=disk"]
    words += ["task.prompts.prompts=[edit the image]"]
    return [*SMALL, *QUIET, *words, "trainer.max_steps=6", "loader.crop=center", "loader.resize=null", "log_every=1"]


def test_a_full_cache_disk_makes_training_slower_not_wrong(sd_folder, tmp_path):
    words = cached(sd_folder, tmp_path)
    roomy = [f"cache_dir={tmp_path}/roomy", f"hydra.run.dir={tmp_path}/whole"]
    assert run([*words, *roomy], tmp_path / "log")[0] == 0
    with small_disk(tmp_path / "disk", 1) as folder:
        fill(folder, leave=8192)  # room for what describes the cache, and no more
        code, said = run([*words, f"cache_dir={folder}/cache", f"hydra.run.dir={tmp_path}/run"], tmp_path / "log")
        (folder / "filler").unlink()
        damaged = [wrong for _, wrong in verified(folder / "cache") if wrong]
    assert code == 0 and f"cannot write {folder}/cache" in said and "not filled any further" in said, said
    slow, fast = (logged(tmp_path / name, "train/loss") for name in ("run", "whole"))
    assert slow == pytest.approx(fast, rel=1e-5) and not damaged


def test_a_line_that_was_cut_costs_no_other_line(tmp_path):
    path = tmp_path / "lines"
    append_line(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "x": ')  # a full disk took a part
    append_line(path, {"n": 3})
    append_line(path, {"n": 4})
    assert path.read_text().splitlines() == ['{"n": 1}', '{"n": 2, "x": ', '{"n": 3}', '{"n": 4}']


def test_each_rank_lists_its_own_samples(tmp_path):
    batch, module = batch_of(2), SimpleNamespace(micro_step=5)
    for rank in (0, 1):
        trainer = SimpleNamespace(global_rank=rank, global_step=2)
        SampleLog(tmp_path).on_train_batch_start(trainer, module, batch, 0)
    found = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert found.keys() == {"samples.jsonl", "samples-rank1.jsonl"}
    shown = {"tasks": ["denoise"] * 2, "ids": ["photo0", "photo1"], "prompts": ["remove the noise"] * 2}
    assert found["samples-rank1.jsonl"] == {"step": 3, "micro_step": 5, "rank": 1, **shown}


# -- not writable ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["above", "run", "file", "below a file", "checkpoints", "log", "cache"])
def test_a_place_that_may_not_be_written_is_told_before_the_first_step(sd_folder, tmp_path, place):
    folder, words = tmp_path / "runs" / "x", WORDS
    folder.parent.mkdir()
    closed = {"above": folder.parent, "run": folder, "checkpoints": folder / "checkpoints", "cache": tmp_path / "cache"}
    if place == "cache":
        words = [*cached(sd_folder, tmp_path), f"cache_dir={tmp_path}/cache"]
    if place == "file":
        folder.write_text("")
    elif place == "below a file":
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "x"
    elif place == "log":
        folder.mkdir()
        (folder / "metrics.jsonl").touch(mode=0o444)
    else:
        closed[place].mkdir(parents=True, exist_ok=True)
        closed[place].chmod(0o555)
    began = time.perf_counter()
    code, said = run([*words, f"hydra.run.dir={folder}"], tmp_path / "log", NOT_ROOT="1")
    [line] = lines_of(said)
    assert code == 5 and line.startswith("error: ") and str(tmp_path) in line, said
    assert "step/s" not in said and time.perf_counter() - began < 30
    assert not list(tmp_path.rglob("step-*"))
