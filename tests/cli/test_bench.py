"""``make bench``: what it calls a loss, what it writes, and that one of its rows goes the way of a run."""

import json

import pytest
import torch

from benchmarks import run
from benchmarks.speed.training import step


class Clock:
    """CPU seconds that pass only where a side of a comparison takes them."""

    def __init__(self):
        self.now = 0.0

    def takes(self, *seconds):
        """An action that takes so long, and the last for ever after."""
        left = list(seconds)

        def action():
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return action


@pytest.fixture
def clock(monkeypatch, tmp_path):
    clock = Clock()
    monkeypatch.setattr(run.time, "process_time", lambda: clock.now)
    monkeypatch.setattr(run, "_Material", lambda folder: None)
    monkeypatch.setattr(run, "RECORD", tmp_path / "recorded.json")
    monkeypatch.setattr(run.torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(run.sys, "argv", ["run"])
    run.RECORD.write_text(json.dumps({"edit": 2.0}))
    return clock


@pytest.mark.parametrize(("ours", "code"), [(1.0, 0), (1.11, 0), (1.12, 1), (0.5, 0)])
def test_a_loss_of_more_than_a_tenth_fails(clock, monkeypatch, capsys, ours, code):
    monkeypatch.setattr(run, "BENCHMARKS", {"edit": lambda m: (clock.takes(2.0), clock.takes(ours))})
    assert run.main() == code
    assert ("LOST" in capsys.readouterr().out) == bool(code)


def test_a_slow_moment_of_the_machine_is_no_loss(clock, monkeypatch):
    slow = [5.0] * run.ROUNDS  # all of the first rounds; the next are asked for before it counts
    monkeypatch.setattr(run, "BENCHMARKS", {"edit": lambda m: (clock.takes(2.0), clock.takes(*slow, 1.0))})
    assert run.main() == 0


@pytest.mark.parametrize("text", ["{}", '{"other": 5.0}', '{"edit": 2.0, "other": 5.0}'])
def test_a_record_of_other_benchmarks_is_refused_and_left_alone(clock, monkeypatch, capsys, text):
    monkeypatch.setattr(run, "BENCHMARKS", {"edit": lambda m: pytest.fail("was measured")})
    run.RECORD.write_text(text)
    assert run.main() == 2 and run.RECORD.read_text() == text
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and ("other" in line if "other" in text else "--record edit" in line)


@pytest.mark.parametrize(("words", "written"), [([], {"edit": 1.5, "new": 3.0}), (["new"], {"edit": 2.0, "new": 3.0})])
def test_recording_writes_what_is_asked_for_and_leaves_the_rest(clock, monkeypatch, words, written):
    benchmarks = {
        "new": lambda m: (clock.takes(3.0), clock.takes(1.0)),
        "edit": lambda m: (clock.takes(3.0), clock.takes(2.0)),
    }
    monkeypatch.setattr(run, "BENCHMARKS", benchmarks)
    monkeypatch.setattr(run.sys, "argv", ["run", "--record", *words])
    assert run.main() == 0 and json.loads(run.RECORD.read_text()) == written


def test_every_comparison_is_recorded():
    assert json.loads(run.RECORD.read_text()).keys() == run.BENCHMARKS.keys()


@pytest.mark.parametrize("batch", [2, 8])
def test_the_whole_step_is_the_runs_own(tmp_path, monkeypatch, sd_folder, batch):
    """Cached, fused and channels-last by the config's own words, and the same step as the plain one."""
    monkeypatch.setattr(step, "SIDE", 64)
    plain, ours = step.both(tmp_path, sd_folder, batch)
    plain.step()
    ours.step()
    torch.testing.assert_close(plain.module.grad_norm, ours.module.grad_norm, rtol=1e-4, atol=0)
    seen = [tuple(next(side.batches).edited.shape) for side in (plain, ours)]
    assert seen == [(batch, 3, 64, 64), (batch, 8, 8, 8)]  # pixels of a micro-batch, and their moments
    assert [side.optimizer.defaults["fused"] for side in (plain, ours)] == [False, True]
    assert ours.module.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
