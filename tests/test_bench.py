"""``make bench``: what it calls a loss."""

import json

import pytest

from benchmarks import run


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


def test_what_is_recorded_is_what_is_compared_with(clock, monkeypatch):
    monkeypatch.setattr(run, "BENCHMARKS", {"edit": lambda m: (clock.takes(3.0), clock.takes(1.0))})
    monkeypatch.setattr(run.sys, "argv", ["run", "--record"])
    assert run.main() == 0 and json.loads(run.RECORD.read_text()) == {"edit": 3.0}


def test_every_comparison_is_recorded():
    assert json.loads(run.RECORD.read_text()).keys() == run.BENCHMARKS.keys()
