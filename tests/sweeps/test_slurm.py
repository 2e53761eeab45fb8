"""On a real SLURM, where one answers: a sweep over two partitions with preemptions, DDP under srun."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ip2p_lightning.errors import UserError
from ip2p_lightning.sweeps import slurm_task
from ip2p_lightning.sweeps.slurm_commands import squeue
from tests.support.sweeping import DDP, SMALL, TRAIN, await_that, digest, environment, runs, start, states, sweep
from tests.support.trained import handlers_restored, train_run

ONE_NODE = Path("/var/tmp/one-node-slurm/slurm.conf")  # what shared/slurm/start writes
if "SLURM_CONF" not in os.environ and ONE_NODE.exists():
    os.environ["SLURM_CONF"] = str(ONE_NODE)


def slurm_answers() -> bool:
    if shutil.which("sinfo") is None:
        return False
    words = ["sinfo", "-h", "-o", "%P %t"]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:  # it is installed, and no controller answers
        return False
    partitions = {line.split()[0].rstrip("*") for line in asked.stdout.splitlines() if line.strip()}
    return {"main", "spare"} <= partitions


def real(test):
    absent = pytest.mark.skipif(not slurm_answers(), reason="no SLURM with partitions main and spare (docs/cluster.md)")
    return pytest.mark.slurm(absent(test))


STEPS = ["trainer.max_steps=60", "log_every=1", "save_every=20"]
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.poll=1", "hydra.launcher.mem_gb=1"]


def queue(*options: str) -> list[str]:
    done = subprocess.run(["squeue", "-h", "-r", *options], capture_output=True, text=True, check=True)
    return done.stdout.split()


def record(run: Path) -> dict:
    return json.loads((run / "slurm.json").read_text())


def training(folder: Path) -> list[str]:
    """Jobs on the partition spare that have taken a step since they were last queued."""
    found = []
    for path in folder.glob("*/slurm.json"):
        job = json.loads(path.read_text())
        if job["partition"] == "spare" and job["exit_code"] is None and (path.parent / "metrics.jsonl").exists():
            found.append(job["job"])
    return sorted(set(found) & set(queue("-t", "R", "-p", "spare", "-o", "%i")))


@pytest.mark.slow  # SLURM holds a requeued job back for two minutes
@real
def test_six_jobs_on_two_partitions_two_of_them_preempted(tmp_path):
    folder = tmp_path / "sweep"
    # main's jobs go first: when two of spare's run, main asks for both cores, and SLURM preempts the two
    process = start(folder, "-m", *SMALL, *STEPS, *SLURM, "hydra.launcher.partition=[main,spare]", "seed=0,1,2,3,4,5")
    await_that(lambda: len(training(folder)) == 2 and not queue("-p", "main", "-o", "%i"), timeout=240)
    preempted = training(folder)
    line = ["sbatch", "-p", "main", "-n", "2", "--mem=10M", "-o", "/dev/null", "--wrap", "sleep 2"]
    subprocess.run(line, check=True, capture_output=True)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert states(folder) == dict.fromkeys(range(6), "complete")
    restarts = {record(run)["job"]: record(run)["restarts"] for run in runs(folder).values()}
    assert {job: count for job, count in restarts.items() if count} == dict.fromkeys(preempted, 1)  # once each
    for seed, run in runs(folder).items():
        alone = train_run(tmp_path / f"alone-{seed}", *SMALL, *STEPS, f"seed={seed}")
        assert digest(run) == digest(alone), f"seed {seed}, restarts {record(run)}"


@real
def test_a_controller_that_died_is_continued_without_doubling_its_jobs(tmp_path):
    folder = tmp_path / "sweep"
    words = ["-m", *SMALL, *STEPS, *SLURM, "hydra.launcher.partition=main", "seed=0,1"]
    process = start(folder, *words)
    await_that(lambda: len(queue("-p", "main", "-o", "%i")) == 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, output = sweep(folder, *words[1:])
    assert code == 0, output
    assert "submitted" not in output
    assert len(list(folder.glob(".slurm/ip2p-*"))) == 1
    assert sorted(len(list(run.glob("events*"))) for run in runs(folder).values()) == [1, 1]


@real
def test_a_job_that_is_killed_touches_no_other_and_its_status_says_so(tmp_path):
    folder = tmp_path / "sweep"
    words = ["hydra.launcher.partition=main", "seed=0,1", "fault='kill@step=1,seed=0'"]
    code, output = sweep(folder, *SMALL, *SLURM, *words)
    assert code == 8 and "killed by signal 9" in output, output
    assert states(folder) == {0: "killed", 1: "complete"}


@real
def test_ddp_under_srun_trains_what_a_local_group_trains(tmp_path):
    line = ["srun", "-n", "2", "--mem=2G", "--time=5", *TRAIN, *DDP]
    under = subprocess.run([*line, f"hydra.run.dir={tmp_path}/srun"], capture_output=True, text=True, env=environment())
    assert under.returncode == 0, under.stdout + under.stderr
    local = subprocess.run([*TRAIN, *DDP, f"hydra.run.dir={tmp_path}/local"], capture_output=True, env=environment())
    assert local.returncode == 0
    assert digest(tmp_path / "srun") == digest(tmp_path / "local")
    again = subprocess.run([*line, f"hydra.run.dir={tmp_path}/srun"], capture_output=True, text=True, env=environment())
    assert again.returncode == 0 and "already complete" in again.stdout  # and rank 1 does not wait for a start


def test_without_slurm_the_launcher_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no SLURM here"):
        squeue()


@pytest.mark.parametrize(
    ("command", "requeues", "limit", "code"),
    [
        ("import sys; sys.exit(143)", 1, 9, 143),
        ("import sys; sys.exit(143)", 0, 0, 143),
        ("import sys; sys.exit(2)", 0, 9, 2),
        ("pass", 0, 9, 0),
        ("import os; os.kill(os.getpid(), 9)", 0, 9, 137),
    ],
)
def test_a_task_is_queued_again_if_it_was_preempted_and_only_then(
    tmp_path, monkeypatch, command, requeues, limit, code
):
    entry = {"folder": str(tmp_path / "run"), "command": [sys.executable, "-c", command]}
    (tmp_path / "jobs.json").write_text(json.dumps({"max_requeues": limit, "jobs": [entry]}))
    monkeypatch.setattr(sys, "argv", ["task", str(tmp_path / "jobs.json")])
    for key, value in {"ARRAY_TASK_ID": "0", "ARRAY_JOB_ID": "7", "PROCID": "0", "RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    asked = []
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(slurm_task.subprocess, "run", lambda line, **_: asked.append(line) or done)
    monkeypatch.setattr(slurm_task.time, "sleep", lambda _: None)
    with handlers_restored():
        assert slurm_task.main() == code
    assert asked == [["scontrol", "requeue", "7_0"]] * requeues
    if not requeues:
        assert record(tmp_path / "run")["exit_code"] == (-9 if code == 137 else code)
