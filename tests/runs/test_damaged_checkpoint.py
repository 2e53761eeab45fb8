"""A run whose newest checkpoint was harmed goes back to the one before, says so once, and ends where it would have."""

import os
import shutil
import subprocess

import pytest

from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_status
from tests.support.harms import HARMS
from tests.support.processes import QUIET, SMALL, digest, run

WORDS = [*SMALL, *QUIET, "model=tiny", "task=denoise", "unet.widths=[8,16,16]", "unet.embedding_dim=16"]
WORDS += ["trainer.max_steps=3", "save_every=1", "keep=3"]


def go(folder, *more):
    return run([*WORDS, *more, f"hydra.run.dir={folder}"], folder.parent / "log")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A whole run, one that failed after two of three steps, and another seed's."""
    work = tmp_path_factory.mktemp("three")
    assert go(work / "whole")[0] == go(work / "other", "seed=1")[0] == 0
    assert go(work / "begun", "fault=raise@step=2")[0] == 1
    return work


@pytest.mark.parametrize("harm", HARMS)
def test_harm_is_noticed_and_the_one_before_is_taken(three, tmp_path, harm):
    folder = shutil.copytree(three / "begun", tmp_path / "run")
    newest = folder / checkpoint.FOLDER / "step-000002.ckpt"
    HARMS[harm](newest, three / "other")
    with pytest.warns(UserWarning, match=f"{newest}: .*going back") as said:
        assert checkpoint.newest_valid(folder) == newest.with_name("step-000001.ckpt")
    assert len(said) == 1
    assert ("belongs to another run" in str(said[0].message)) == (harm == "another run's file and checksum file")
    assert os.path.lexists(newest.with_name("step-000002.ckpt.corrupt"))


def test_a_run_that_goes_back_ends_where_it_would_have(three, tmp_path):
    folder = shutil.copytree(three / "begun", tmp_path / "run")
    HARMS["one bit"](folder / checkpoint.FOLDER / "step-000002.ckpt", three)
    code, said = go(folder)
    assert code == 0 and [line[:9] for line in said.splitlines() if "going back" in line] == ["warning: "], said
    assert said.count("warning: ") == 1 and digest(folder) == digest(three / "whole")


def test_a_run_with_none_left_reports_it(three, tmp_path):
    folder = shutil.copytree(three / "begun", tmp_path / "run")
    for path in checkpoint.checkpoints(folder):
        HARMS["one bit"](path, three)
    code, said = go(folder)
    assert code == 6 and "no undamaged checkpoint left" in said and "Traceback" not in said, said
    assert len(list((folder / checkpoint.FOLDER).glob("*.corrupt"))) == 2


def test_the_same_step_may_be_damaged_again(three, tmp_path):
    folder = shutil.copytree(three / "begun", tmp_path / "run")
    for name in ("step-000002.ckpt.corrupt", "step-000002.ckpt.corrupt2"):
        shutil.copytree(three / "begun", folder, dirs_exist_ok=True)
        HARMS["a folder in its place"](folder / checkpoint.FOLDER / "step-000002.ckpt", three)
        with pytest.warns(UserWarning, match=f"kept as {name},"):
            checkpoint.newest_valid(folder)
        assert (folder / checkpoint.FOLDER / name).is_dir()


def test_checkpoints_copied_without_their_runs_name_are_its_own(three, tmp_path):
    folder = shutil.copytree(three / "begun", tmp_path / "run")
    (folder / checkpoint.FOLDER / "run.json").unlink()
    assert go(folder)[0] == 0 and digest(folder) == digest(three / "whole")
    assert read_status(folder)["state"] == "complete" and not list(folder.rglob("*.corrupt"))
    runs = {path.read_text().splitlines()[0] for path in folder.rglob("*.sha256")}
    assert len(runs) == 1 and runs.pop().startswith("# run ")


def test_sha256sum_reads_checksum_files(three):
    folder = three / "whole" / checkpoint.FOLDER
    names = [path.name for path in folder.glob("*.sha256")]
    done = subprocess.run(["sha256sum", "--check", "--strict", *names], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 3, done
