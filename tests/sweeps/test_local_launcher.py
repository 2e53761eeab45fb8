"""Sweeps on this machine, through the real command: jobs that fail, jobs that are missing, controllers that die."""

import sys
from pathlib import Path

import pytest

from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.sweeps.job import Job
from ip2p_lightning.sweeps.job_table import table
from ip2p_lightning.system.processes import SUPERVISOR
from tests.support.processes import Process
from tests.support.sweeping import DDP, SMALL, await_that, crowd, runs, started, states, sweep, times

FAULTS = "fault='oom@step=1,seed=0;kill@step=1,seed=1'"


@pytest.fixture(scope="module")
def troubled(tmp_path_factory) -> tuple[Path, int, str]:
    """A sweep of three: one asks for too much memory, one is killed. Drill 47 has more of them."""
    folder = tmp_path_factory.mktemp("sweeps") / "sweep"
    return folder, *sweep(folder, *SMALL, "seed=0,1,2", FAULTS)


def test_jobs_that_fail_do_not_touch_the_others(troubled):
    folder, code, output = troubled
    assert code == 8, output
    assert states(folder) == {0: "failed", 1: "killed", 2: "complete"}  # the killed one could not say so itself
    assert read_status(runs(folder)[1])["reason"] == "killed by signal 9"


def test_the_table_names_reasons_and_logs(troubled):
    folder, _, output = troubled
    rows = {int(line.split()[0]): line for line in output.splitlines() if line[:1].isdigit()}
    for number, reason in {0: "can't allocate memory", 1: "killed by signal 9"}.items():
        assert reason in rows[number]
        assert f"log: {runs(folder)[number] / 'log.txt'}" in rows[number]
    assert output.splitlines()[-1].startswith("error: 2 of 3 jobs are not complete")
    assert "seed=1" in rows[1] and "loader.size" not in rows[1].split("(log:")[0]  # what all jobs share is left out


def test_the_same_command_runs_only_what_is_missing_and_then_nothing(troubled):
    folder, _, _ = troubled
    complete = times(runs(folder)[2])
    code, output = sweep(folder, *SMALL, "seed=0,1,2")  # no faults now: they are not a part of a run's name
    assert code == 0, output
    assert states(folder) == dict.fromkeys(range(3), "complete") and times(runs(folder)[2]) == complete
    everything = times(folder)
    code, output = sweep(folder, *SMALL, "seed=0,1,2")
    assert code == 0 and times(folder) == everything and output.count("complete") >= 3


def test_ddp_jobs_in_a_sweep_of_which_the_first_one_fails(tmp_path):
    """Lightning #11300: there, children repeat the sweep, and the next job meets the ranks of the failed one."""
    folder = tmp_path / "sweep"
    code, output = sweep(folder, *DDP, "seed=0,1", "fault='raise@step=1,seed=0'")
    assert code == 8, output
    assert states(folder) == {0: "failed", 1: "complete"}
    assert len(list(folder.glob("*/config.json"))) == 2  # no rank began a sweep of its own
    assert "rank 0: RuntimeError" in output


def test_runs_started_in_the_same_second_have_folders_of_their_own(tmp_path):
    found = crowd(tmp_path / "runs", tmp_path, ["trainer.max_steps=20"], count=4, timeout=300)
    assert found == {
        "exit codes": {0: 4},
        "folders": ["run", "run@2", "run@3", "run@4"],
        "states": {"complete": 4},
        "a writer each": True,
        "lines logged": {20: 4},  # no step logged twice, no second writer
        "event files": {1: 4},
        "different digests": 1,
    }


@pytest.mark.skipif(sys.platform != "linux", reason="a job learns of its controller's death from Linux only")
def test_a_controller_that_is_killed_takes_its_job_along_and_is_continued(tmp_path):
    folder = tmp_path / "sweep"
    words = [*SMALL, "trainer.max_steps=100", "log_every=1", "seed=0"]
    with started(folder, "-m", *words):  # and kills it
        await_that(lambda: list(folder.glob("*/metrics.jsonl")))
    (path,) = runs(folder).values()
    await_that(lambda: read_status(path)["state"] == "preempted")  # saved, and gone
    code, output = sweep(folder, *words)
    assert code == 0, output
    assert states(folder) == {0: "complete"}
    assert path in runs(folder).values() and "@" not in "".join(p.name for p in folder.iterdir())


def test_a_job_whose_controller_is_gone_does_not_start(tmp_path):
    process = Process([*SMALL, f"hydra.run.dir={tmp_path / 'run'}"], tmp_path / "log", {SUPERVISOR: "1"})
    assert process.wait() == 143 and process.said().startswith("error: the sweep's controller is gone")
    assert not (tmp_path / "run").exists()


def test_a_refused_job_does_not_pass_for_the_complete_run_in_its_folder(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "complete", "step": 4}')
    (tmp_path / "log.txt").write_text("error: the folder holds a run with another config\n")
    job = Job(0, ["seed=1"], tmp_path, [], {}, exit_code=2)
    assert job.state == "refused"
    assert "another config" in table([job])


@pytest.mark.parametrize("sweeper", [[], ["hydra/sweeper=optuna"]])
def test_a_launcher_whose_jobs_share_a_process_is_refused_in_a_line(tmp_path, sweeper):
    sweeping = ["-m", *SMALL, "seed=0,1", "hydra/launcher=basic", *sweeper, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    process = Process(sweeping, tmp_path / "log")
    assert process.wait(300) == 2
    *_, line = process.said().splitlines()  # Hydra may say first which job it was
    assert line.startswith("error: hydra.launcher=BasicLauncher") and "Traceback" not in process.said()
    assert not list(tmp_path.glob("sweep/*/"))
