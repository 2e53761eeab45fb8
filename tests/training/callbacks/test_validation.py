"""A validation that a kill or a stop came before is made when the run goes on: the log is as if nothing had been."""

import signal

from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.runs.metrics_log import has_scores, read_metrics
from tests.support.processes import SMALL, digest, run
from tests.support.ranks import ended, step

WORDS = [*SMALL, "model=tiny", "task=denoise", "val_examples=2", "loader.eval_draws=1", "trainer.max_steps=5"]
WORDS += ["val_every=2", "save_every=2", "log_every=1", "trainer.accumulate_grad_batches=2"]


def go(folder, *more):
    return run([*WORDS, *more, f"hydra.run.dir={folder}"], folder.parent / "log")


def validations(folder):
    """Every scored line of a run's log, in order."""
    return [line for line in read_metrics(folder) if "val/psnr" in line]


def test_kills_in_validations_and_a_stop_before_one_lose_none(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    code, said = go(whole)
    assert code == 0 and [line["step"] for line in validations(whole)] == [2, 4, 5], said
    for _ in range(2):  # in the first one, and as it is made again
        assert go(folder, "fault=kill@val=1")[0] == -signal.SIGKILL and not validations(folder)
    code, said = go(folder, "fault=term@step=3")
    assert code == 143 and [line["step"] for line in validations(folder)] == [2], said
    assert "SIGTERM at step 4" in read_status(folder)["reason"]
    assert go(folder, "fault=kill@val=2")[0] == -signal.SIGKILL  # the one after the last step
    assert [line["step"] for line in validations(folder)] == [2, 4]
    code, said = go(folder)
    assert code == 0 and read_status(folder)["state"] == "complete", said
    assert validations(folder) == validations(whole) and digest(folder) == digest(whole)  # each once, the same scores


def test_scores_of_another_step_or_of_a_cut_line_do_not_count(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert not has_scores(tmp_path, 2)
    log.write_text('{"step": 2, "train/loss": 1.0}\n{"step": 4, "val/psnr": 9.0}\n{"step": 2, "val/ps')
    assert not has_scores(tmp_path, 2) and has_scores(tmp_path, 4)


def test_ranks_decide_alike(tmp_path):
    folder = tmp_path / "run"
    codes, said = ended(step(folder, "val_every=2", "fault=term@step=1,rank=1"))
    assert codes == [143, 143] and not validations(folder), said
    codes, said = ended(step(folder, "val_every=2"))
    assert codes == [0, 0], said
    assert [line["step"] for line in validations(folder)] == [2, 4]
