"""A validation that a kill or a stop came before is made when the run goes on: the log is as if nothing had been."""

import json
import signal

import pytest

from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.runs.metrics_log import final_score, has_scores
from tests.support.processes import SMALL, digest, run
from tests.support.ranks import ended, step

WORDS = [
    *SMALL,
    "model=tiny",
    "task=denoise",
    "val_examples=2",
    "loader.eval_draws=1",
]
WORDS += ["trainer.max_steps=6", "val_every=2", "save_every=2", "log_every=1", "trainer.accumulate_grad_batches=2"]


def go(folder, *more):
    return run([*WORDS, *more, f"hydra.run.dir={folder}"], folder.parent / "log")


def validations(folder):
    """Every scored line of a run's log, in order."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "val/psnr" in line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, said = go(folder)
    assert code == 0, said
    assert [line["step"] for line in validations(folder)] == [2, 4, 6]
    return folder


@pytest.mark.parametrize("faults", [["kill@val=2"], ["kill@val=3"], ["kill@val=1", "kill@val=1"]])
def test_a_kill_in_a_validation_loses_none(whole, tmp_path, faults):
    folder = tmp_path / "run"
    for fault in faults:
        assert go(folder, f"fault={fault}")[0] == -signal.SIGKILL
    code, said = go(folder)
    assert code == 0 and read_status(folder)["state"] == "complete", said
    assert validations(folder) == validations(whole)  # each once, with the same scores
    assert digest(folder) == digest(whole)


def test_a_stop_at_a_step_that_is_validated_loses_none(whole, tmp_path):
    folder = tmp_path / "run"
    code, said = go(folder, "fault=term@step=3")
    assert code == 143 and [line["step"] for line in validations(folder)] == [2], said
    assert "SIGTERM at step 4" in read_status(folder)["reason"]
    assert go(folder)[0] == 0
    assert validations(folder) == validations(whole) and digest(folder) == digest(whole)


def test_a_run_whose_last_step_is_no_multiple_is_scored_once(tmp_path):
    folder = tmp_path / "run"
    words = ("trainer.max_steps=3",)
    assert go(folder, *words, "fault=kill@val=2")[0] == -signal.SIGKILL  # the one after the last step
    assert final_score(folder) == validations(folder)[0]["val/psnr"]
    assert go(folder, *words)[0] == 0
    assert [line["step"] for line in validations(folder)] == [2, 3]


def test_scores_of_another_step_or_of_a_cut_line_do_not_count(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert not has_scores(tmp_path, 2)
    log.write_text('{"step": 2, "train/loss": 1.0}\n{"step": 4, "val/psnr": 9.0}\n{"step": 2, "val/ps')
    assert not has_scores(tmp_path, 2) and has_scores(tmp_path, 4)


def test_ranks_decide_alike(tmp_path):
    folder = tmp_path / "run"
    codes, said = ended(step(folder, "val_every=2", "fault=term@step=1,rank=1"))
    assert codes == [143, 143] and not (folder / "metrics.jsonl").read_text().count("val/psnr"), said
    codes, said = ended(step(folder, "val_every=2"))
    assert codes == [0, 0], said
    assert [line["step"] for line in validations(folder)] == [2, 4]
