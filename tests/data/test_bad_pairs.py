"""Drills 30 and 31: files that go bad under a running training, and loader workers that die or hang."""

import json
import os
import time
from types import SimpleNamespace

import psutil
import pytest

from ip2p_lightning.data.bad_pairs import RECORD, BadPairs
from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.datamodules import EditDataModule
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.data.sources.folder import Folder
from ip2p_lightning.errors import DataError
from ip2p_lightning.runs import data_fingerprint
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.training import fit
from tests.support.pieces import write_pairs
from tests.support.processes import LIMIT, QUIET, SMALL, Process, digest, run
from tests.support.trained import train_run

PAIRS, STEPS = 12, 9
WORDS = ["data=folder", "task=own", "loader.batch_size=4", f"trainer.max_steps={STEPS}", "save_every=3"]
WORDS += ["task.prompts.prompts=[edit the image]", *QUIET, "loader.resize=null", "log_every=1"]
TINY = ["model=tiny", "unet.widths=[8,16,16]"]


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs", PAIRS)


def spoil(root, *numbers, missing=False):
    """Cut files short, or remove them."""
    for i in numbers:
        path = root / "train" / ("input" if i % 2 else "target") / f"{i:04d}.png"
        path.unlink() if missing else path.write_bytes(path.read_bytes()[:200])


@pytest.fixture
def spoiled_at_the_start(monkeypatch):
    """Something happens to the files once the run has looked at its data and before its first step."""

    def arrange(harm):
        train = fit.fit
        monkeypatch.setattr(fit, "fit", lambda *given: (harm(), train(*given))[1])

    return arrange


def trained(folder, root, *more, model=TINY):
    """A run in this process, with the decoded images of no other test."""
    return train_run(folder, *model, *WORDS, f"data.root={root}", "+data.memory=0", *more)


@pytest.mark.parametrize(("workers", "missing"), [(0, True), (2, False)])
def test_a_pair_that_goes_bad_ends_the_run_naming_it(pairs, tmp_path, spoiled_at_the_start, capsys, workers, missing):
    spoiled_at_the_start(lambda: spoil(pairs, 3, missing=missing))
    began = time.monotonic()
    with pytest.raises(AssertionError, match="ended with 3"):
        trained(tmp_path / "run", pairs, f"loader.workers={workers}")
    assert time.monotonic() - began < 10 + 10  # with a start of its own
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: own, pair '0003': ") and str(pairs / "train" / "input" / "0003.png") in said
    assert read_status(tmp_path / "run")["exit_code"] == 3 and not (tmp_path / "run" / RECORD).exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_budget_lets_the_run_end_and_lists_them(pairs, tmp_path, spoiled_at_the_start, capsys, workers):
    spoiled_at_the_start(lambda: spoil(pairs, 1, 4, 7))
    run = trained(tmp_path / "run", pairs, f"loader.workers={workers}", "loader.max_bad=5")
    status = read_status(run)
    assert status["state"] == "complete" and status["step"] == STEPS
    assert sorted(entry["id"] for entry in status["bad_pairs"]) == ["0001", "0004", "0007"]
    assert all("/00" in entry["reason"] for entry in status["bad_pairs"])
    assert "could not be read: 3 pairs" in capsys.readouterr().out


def test_one_pair_too_many_ends_it(pairs, tmp_path, spoiled_at_the_start, capsys):
    spoiled_at_the_start(lambda: spoil(pairs, 0, 2, 5, 6, 8, 9))
    with pytest.raises(AssertionError, match="ended with 3"):
        trained(tmp_path / "run", pairs, "loader.workers=2", "loader.max_bad=5")
    said = capsys.readouterr().err.splitlines()[-1]
    assert "5 others were left out before (loader.max_bad=5)" in said and RECORD in said
    assert len(read_status(tmp_path / "run")["bad_pairs"]) == 5


def test_a_continued_run_leaves_out_the_same(pairs, tmp_path, spoiled_at_the_start):
    """Bit for bit, with other workers, also where what was bad can be read again."""
    spoiled_at_the_start(lambda: spoil(pairs, 1, 3, 9))  # of three splits, only originals: the division stays
    whole = trained(tmp_path / "whole", pairs, "loader.max_bad=3")
    good = write_pairs(tmp_path / "again", PAIRS)
    spoiled_at_the_start(lambda: spoil(good, 1, 3, 9))
    run = trained(tmp_path / "run", good, "loader.max_bad=3", "trainer.max_steps=6")
    spoiled_at_the_start(lambda: None)
    more = ["loader.workers=2", "resume_allow=[trainer.max_steps]"]
    assert digest(trained(run, good, "loader.max_bad=3", *more)) == digest(whole)
    assert len(read_status(run)["bad_pairs"]) == 3


def test_a_pair_is_bad_from_its_place_on_and_every_process_sees_it(tmp_path):
    loader = Loader(batch_size=2, size=32, max_bad=2)
    data = EditDataModule(Folder(str(write_pairs(tmp_path, PAIRS)), memory=0), PromptPool(["do it"]), loader=loader)
    data.bad = BadPairs(tmp_path / RECORD, 2)
    batches = data.train_dataloader().examples
    key = next(iter(data.train_dataloader().keys))[0]._replace(index=3)
    first = batches[key]
    spoil(tmp_path, 3)
    later = [batches[key._replace(epoch=epoch)].id for epoch in (2, 3)]
    assert "0003" not in later
    (tmp_path / "train" / "input" / "0003.png").write_bytes((tmp_path / "train" / "input" / "0005.png").read_bytes())
    other = EditDataModule(data.source, data.prompts, loader=loader)
    other.bad = BadPairs(tmp_path / RECORD, 2)
    again = other.train_dataloader().examples
    assert [again[key._replace(epoch=epoch)].id for epoch in (2, 3)] == later and again[key].id == first.id == "0003"
    with (tmp_path / RECORD).open("a") as file:
        file.write('{"task": "edi')  # by a kill
    spoil(tmp_path, 5, 7)
    assert batches[key._replace(index=5, epoch=4)].id not in ("0005", "0003")
    with pytest.raises(DataError, match="2 others were left out"):
        batches[key._replace(index=7, epoch=4)]
    assert [entry["id"] for entry in data.bad.lines()] == ["0003", "0005"]


def test_changed_files_continue_a_run_only_if_it_leaves_them_out(tmp_path):
    run = SimpleNamespace(path=tmp_path)
    (tmp_path / RECORD).write_text(json.dumps({"task": "own", "id": "p01", "epoch": 0, "draw": 0}) + "\n")
    before = {"own/train": {"p01 (original)": "a", "p01 (edited)": "b", "p02 (original)": "c"}}
    data_fingerprint.adopt_data(run, before, True, [])
    bad = data_fingerprint.left_out(run, fresh=False)
    changed = {"own/train": before["own/train"] | {"p01 (edited)": "x"}}
    data_fingerprint.adopt_data(run, changed, False, [], bad)
    for harm in ({"p02 (original)": "y"}, {"p01 (new)": "y"}):
        with pytest.raises(DataError, match="not what this run began with"):
            data_fingerprint.adopt_data(run, {"own/train": changed["own/train"] | harm}, False, [], bad)
    assert data_fingerprint.left_out(run, fresh=True) == set() and not (tmp_path / RECORD).exists()


def test_a_cached_run_leaves_out_too(pairs, tmp_path, sd_folder, spoiled_at_the_start):
    spoiled_at_the_start(lambda: spoil(pairs, 1, 3))
    model = ["model=local", f"model.path={sd_folder}", "cache=disk", f"cache_dir={tmp_path / 'cache'}"]
    run = trained(tmp_path / "run", pairs, "loader.max_bad=2", model=model)
    assert len(read_status(run)["bad_pairs"]) == 2 and read_status(run)["cache"]["hits"] > 0


# ---- workers that die or hang, and ranks: in processes of their own ----


def living(group):
    """Processes of a process group that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.mark.parametrize(("kind", "timeout"), [("kill", 600), ("hang", 4)])
def test_a_worker_that_dies_or_hangs_is_named_and_leaves_nobody(pairs, tmp_path, kind, timeout):
    words = [*SMALL, *TINY, *WORDS, f"data.root={pairs}", "loader.workers=2", f"loader.timeout={timeout}"]
    process = Process([*words, f"fault={kind}@pair=7", f"hydra.run.dir={tmp_path}/run"], tmp_path / "log")
    process.until(lambda: (tmp_path / "run" / "status.json").exists())
    began = time.monotonic()
    code = process.wait(LIMIT)
    wall, limit = time.monotonic() - began, 30 if kind == "kill" else timeout + 20  # with a start of its own
    said = process.said().splitlines()[-1]
    assert code == 3 and wall < limit and said.startswith("error: ") and "was at own '0007'" in said
    assert read_status(tmp_path / "run")["state"] == "failed"
    time.sleep(0.5)
    assert not living(process.pid)


def test_a_killed_run_leaves_no_hanging_worker_behind(pairs, tmp_path):
    words = [*SMALL, *TINY, *WORDS, f"data.root={pairs}", "loader.workers=2", "fault=hang@pair=7"]
    process = Process([*words, f"hydra.run.dir={tmp_path}/run"], tmp_path / "log")
    process.until(lambda: len(living(process.pid)) == 3)
    os.kill(process.pid, 9)
    process.wait(LIMIT)
    time.sleep(0.5)
    assert not living(process.pid)


@pytest.mark.parametrize("budget", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_do_not_hang(pairs, tmp_path, budget):
    spoil(pairs, 3, 8)  # an image is decoded when it is trained on, not before
    group = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true", "timeout=60"]
    words = [*group, *SMALL[1:], *TINY, *WORDS, "loader.batch_size=2", f"data.root={pairs}", f"loader.max_bad={budget}"]
    code, said = run([*words, "loader.workers=1", f"hydra.run.dir={tmp_path}/run"], tmp_path / "log", 200)
    status = read_status(tmp_path / "run")
    if budget == 2:
        assert code == 0, said
        assert status["state"] == "complete" and {e["id"] for e in status["bad_pairs"]} == {"0003", "0008"}
    else:
        assert code == 3 and status["state"] == "failed" and "1 others were left out" in status["reason"], said
        assert len(status["bad_pairs"]) == 1
