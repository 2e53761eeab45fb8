"""Signals, whenever they come: before anything is imported, before the first step, in the middle of a run."""

import contextlib
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ip2p_lightning.errors import PreemptedError
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs import folder as run_folder
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.system.signals import InterruptedRunError, StopRequest, exit_on_signal
from ip2p_lightning.training import train
from ip2p_lightning.training.callbacks.preemption import Preemption
from tests.support.processes import LIMIT, QUIET, SMALL, Process, in_a_fork
from tests.support.ranks import WORDS as TWO
from tests.support.ranks import processes_of
from tests.support.sweeping import TRAIN, environment
from tests.support.trained import handlers_restored

LONG = [*SMALL, *QUIET, "model=tiny", "task=denoise", "trainer.max_steps=100000", "save_every=100000", "log_every=1"]


def begun(folder):
    return lambda: (folder / "metrics.jsonl").exists()


# -- in the middle ---------------------------------------------------------------------------------------------------


def test_a_closed_terminal_stops_a_run_that_saves_although_it_cannot_print(tmp_path):
    ours, theirs = pty.openpty()
    process = Process([*LONG, f"hydra.run.dir={tmp_path}/run"], os.ttyname(theirs))  # it opens its own terminal
    assert process.until(begun(tmp_path / "run"))
    os.close(theirs)
    os.close(ours)  # the kernel sends SIGHUP to the terminal's processes
    assert process.wait() == 143
    status = read_status(tmp_path / "run")
    assert status["state"] == "preempted" and "SIGHUP at step" in status["reason"]
    assert not checkpoint.damage(checkpoint.checkpoints(tmp_path / "run")[0])


def told(number, save_first, before=signal.SIG_DFL):
    """What a fork does that listens and is sent `number`."""

    def act():
        signal.signal(number, before)
        request = StopRequest()
        request.save_first = save_first
        request.listen()
        os.kill(os.getpid(), number)
        assert request.received == (None if before == signal.SIG_IGN else number)

    return in_a_fork(act)


def test_nohup_is_heeded():
    assert told(signal.SIGHUP, save_first=False, before=signal.SIG_IGN) == 0


# -- before the first step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_at_once_while_there_is_nothing_to_save(number):
    assert told(number, save_first=False) == (130 if number == signal.SIGINT else 143)
    assert told(number, save_first=True) == 0


def test_a_second_signal_does_not_interrupt_what_the_first_began():
    def act():
        request = StopRequest()
        request.listen()
        with pytest.raises(PreemptedError, match="SIGUSR1 before the first step"):
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)  # as a group's supervisor does again and again
        assert request.received == signal.SIGUSR1

    assert in_a_fork(act) == 0


def test_a_stop_that_a_constructor_wraps_is_a_stop(tmp_path):
    wrapped = RuntimeError("Error in call to target")
    wrapped.__cause__ = PreemptedError("SIGTERM before the first step")
    train._record(run_folder.claim(tmp_path / "run"), wrapped)
    status = read_status(tmp_path / "run")
    assert (status["state"], status["exit_code"]) == ("preempted", 143)


def test_a_loaders_worker_that_inherits_the_handler_goes_on():
    request = StopRequest()

    def act():
        request._pid, request._terminals = os.getppid(), []
        request._handle(signal.SIGTERM, None)
        assert request.received is None

    assert in_a_fork(act) == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_command_that_still_imports_ends_in_one_line(tmp_path, number):
    words = [*TRAIN, *LONG, f"hydra.run.dir={tmp_path}/run"]
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text():
        time.sleep(0.001)
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == (130 if number == signal.SIGINT else 143), said
    told = "interrupted" if number == signal.SIGINT else "error: SIGUSR1; the same command begins"
    assert said.count("\n") == 1 and told in said, said


def test_ctrl_c_ends_a_command_that_cannot_be_told_of_it():
    def act():
        exit_on_signal()
        with contextlib.suppress(BaseException):  # as a destructor does
            os.kill(os.getpid(), signal.SIGINT)

    assert in_a_fork(act) == 130


def test_a_fork_of_a_command_ends_as_ever():
    def act():
        exit_on_signal()
        inner = os.fork()
        if inner == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) == -signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)

    assert in_a_fork(act) == 143


# -- ranks -----------------------------------------------------------------------------------------------------------


def test_a_stop_of_a_group_is_one_line_that_names_the_signal(tmp_path):
    words = [*TWO, *QUIET, "trainer.max_steps=100000", "save_every=100000", f"hydra.run.dir={tmp_path}/run"]
    process = Process(words, tmp_path / "log")
    assert process.until(begun(tmp_path / "run"), 300)
    process.send(signal.SIGTERM)
    assert process.wait(300) == 143
    status = read_status(tmp_path / "run")
    assert status["state"] == "preempted" and "SIGTERM at step" in status["reason"] and not processes_of(tmp_path)
    said = process.said()
    assert "Traceback" not in said and said.count("error: ") == said.count("SIGTERM") == 1, said


def test_a_second_ctrl_c_that_a_library_swallowed_stops_after_the_micro_batch():
    with handlers_restored():
        request = StopRequest()
        request.listen()
        request.save_first = True
        signal.raise_signal(signal.SIGINT)
        with contextlib.suppress(Exception):  # as torch does around an import
            signal.raise_signal(signal.SIGINT)
        trainer = SimpleNamespace(global_step=0)
        with pytest.raises(InterruptedRunError, match="Ctrl-C twice"):
            Preemption(request, checkpoints=None).on_train_batch_end(trainer, None)
