"""Launchers without a training: which jobs they refuse, and what becomes of a job that cannot even be begun."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from ip2p_lightning.cli import train
from ip2p_lightning.config.quoting import quoted
from ip2p_lightning.errors import SweepError, UserError
from ip2p_lightning.sweeps.job import Job, make_job
from ip2p_lightning.sweeps.local_launcher import LocalLauncher, conclude
from ip2p_lightning.sweeps.slurm_launcher import SlurmLauncher
from ip2p_lightning.system.signals import StopRequest
from ip2p_lightning.training.distributed import launch

SLURM, OPTUNA = "hydra/launcher=submitit_slurm", "hydra/sweeper=optuna"


@pytest.fixture(autouse=True)
def no_outcomes(monkeypatch):
    monkeypatch.setattr(LocalLauncher, "outcomes", [])


@pytest.fixture
def ready(tmp_path, loader) -> Callable:
    """A launcher as Hydra's sweeper has it, of a sweep in the test's folder."""

    def setup(launcher, folder: Path = tmp_path / "sweep"):
        words = [f"hydra.sweep.dir={quoted(str(folder))}"]
        config = loader.load_configuration("train", words, run_mode=RunMode.MULTIRUN)
        launcher.setup(hydra_context=SimpleNamespace(config_loader=loader), task_function=None, config=config)
        return launcher

    return setup


@pytest.mark.parametrize("kind", [LocalLauncher, SlurmLauncher])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["loader.workers=0", "loader.workers=1"], r"loader\.workers=0.*loader\.workers=1.*folder default"),
        (["model.path=a_b", "model.path=a/b"], r"model.path=a_b.*model.path=a/b.*folder model.path-a_b"),
        (["seed=3", "seed=3"], r"jobs 0 and 1 are the same \(seed=3\)"),
    ],
)
def test_jobs_that_would_share_a_folder_are_refused(ready, tmp_path, kind, words, named):
    launcher = ready(kind())
    with pytest.raises(UserError, match=named):
        launcher.launch([[word] for word in words], 0)
    if words[0] != words[1]:  # in an earlier batch
        LocalLauncher.outcomes = [make_job(launcher.context, launcher.config, words[:1], 0)]
        with pytest.raises(UserError, match=named):
            launcher.launch([words[1:]], 1)
    assert not list(tmp_path.iterdir())


def test_a_job_gets_its_folder_with_any_characters_in_it(ready, tmp_path):
    name = "it's/say \"a\"/a,b=c/[x]{y}/${z}/back\\slash/a\\'b/ends in \\"
    launcher = ready(LocalLauncher(), tmp_path / name)
    job = make_job(launcher.context, launcher.config, ["seed=1"], 0)
    assert job.folder == tmp_path / name / "seed-1"
    told = [word for word in job.command if word.startswith("hydra.")]
    config = launcher.context.config_loader.load_configuration("train", told, run_mode=RunMode.RUN)
    assert Path(config.hydra.run.dir) == job.folder


def test_a_job_imports_nothing_from_the_current_folder(ready, tmp_path):
    launcher = ready(LocalLauncher())
    job = make_job(launcher.context, launcher.config, ["seed=1"], 0)
    for library in ("calendar", "queue"):
        (tmp_path / f"{library}.py").write_text("raise SystemExit('imported from the current folder')")
    shown = subprocess.run([*job.command, "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0 and "seed: 1" in shown.stdout, shown.stderr


def test_the_ranks_of_a_group_import_nothing_from_the_current_folder(tmp_path, monkeypatch):
    told = {}

    def start(command, env, **_):
        told.update(env)
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(launch.subprocess, "Popen", start)
    with pytest.raises(BlockingIOError):
        launch.supervise({"run": str(tmp_path)}, 2, StopRequest())
    assert told["PYTHONSAFEPATH"] == "1"  # it reaches a loader's workers, -P would not


COMPLETE = """
import sys
from pathlib import Path
from ip2p_lightning.system.files import write_json
write_json(Path(sys.argv[1]) / "config.json", {"seed": int(sys.argv[2])})
write_json(Path(sys.argv[1]) / "status.json", {"state": "complete", "step": 1})
with (Path(sys.argv[1]) / "trainings").open("a") as file:
    file.write("x")
"""


def job_of(number: int, folder: Path, program: str = COMPLETE) -> Job:
    """A job whose process only says that it has trained."""
    command = [sys.executable, "-c", program, str(folder), str(number)]
    return Job(number, [f"seed={number}"], folder, command, {"seed": number})


def test_a_job_that_cannot_be_begun_or_read_does_not_end_the_sweep(tmp_path, capsys):
    (tmp_path / "0").write_text("a file in the folder's place")
    damaged = "import sys; sys.exit('error: config.json: its bytes do not match its sha256')"
    jobs = [job_of(0, tmp_path / "0"), job_of(1, tmp_path / "1", damaged), job_of(2, tmp_path / "2")]
    jobs[1].folder.mkdir()
    (jobs[1].folder / "status.json").write_text('{"state": "complete"}')
    (jobs[1].folder / "config.json").write_text('{"seed": 1, "sha256": "0"}')
    LocalLauncher().run(jobs)
    with pytest.raises(SweepError, match="2 of 3 jobs are not complete"):
        conclude()
    assert [job.state for job in jobs] == ["failed", "refused", "complete"]
    printed = capsys.readouterr().out
    assert "File exists" in printed and "its bytes do not match" in printed


def test_a_job_that_was_stopped_before_it_had_a_status_goes_on(tmp_path):
    job = job_of(0, tmp_path / "0", "import sys; print('error: SIGTERM; the same command begins'); sys.exit(143)")
    LocalLauncher().run([job])
    assert (job.state, job.reason) == ("preempted", "error: SIGTERM; the same command begins")
    again = job_of(0, tmp_path / "0")
    LocalLauncher.outcomes.clear()
    LocalLauncher().run([again])
    assert again.state == "complete"


def test_slurm_is_not_asked_for_a_job_that_has_no_folder(tmp_path, monkeypatch):
    (tmp_path / "0").write_text("a file in the folder's place")
    launcher, submitted = SlurmLauncher(), []
    launcher.lists = tmp_path / ".slurm"
    monkeypatch.setattr(launcher, "_queued", dict)
    monkeypatch.setattr(launcher, "_submit", lambda _, jobs: submitted.extend(jobs) or {})
    jobs = [job_of(number, tmp_path / str(number)) for number in range(2)]
    launcher.run(jobs)
    assert jobs[0].state == "failed" and submitted == jobs[1:]


@pytest.mark.parametrize("kind", [LocalLauncher, SlurmLauncher])
def test_a_dry_run_shows_what_each_job_would_be_and_leaves_nothing(ready, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    launcher, folder = ready(kind()), tmp_path / "sweep"
    folder.mkdir()
    (folder / "multirun.yaml").write_text("Hydra's")
    said = ["print('2 steps')", "import sys; print('looked'); sys.exit('error: no such data')"]
    jobs = [job_of(number, folder / str(number), program) for number, program in enumerate(said)]
    for job in jobs:
        job.config["dry_run"] = True
    launcher.run(jobs)
    with pytest.raises(SweepError, match="1 of 2 jobs"):
        conclude()
    assert [(job.state, job.reason) for job in jobs] == [("checked", ""), ("failed", "error: no such data")]
    assert "seed=0: checked\n2 steps\n[1]" in capsys.readouterr().out
    assert tmp_path.exists() and not list(tmp_path.iterdir())  # not even where the current folder is left empty


def test_two_commands_of_one_sweep_train_each_job_once(tmp_path):
    commands = [[job_of(number, tmp_path / str(number)) for number in range(2)] for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(LocalLauncher(jobs=2).run, commands))
    assert {job.state for jobs in commands for job in jobs} == {"complete"}
    assert [(tmp_path / str(number) / "trainings").read_text() for number in range(2)] == ["x", "x"]


def test_two_commands_of_one_sweep_submit_each_job_once(tmp_path, monkeypatch):
    queue = {}  # SLURM's: folder to id

    def submit(_, jobs):
        time.sleep(0.5)  # sbatch takes a while
        queue.update({str(job.folder): f"{len(queue)}_0" for job in jobs})
        return {queue[str(job.folder)]: job for job in jobs}

    def command(_):
        launcher = SlurmLauncher()
        launcher.lists, launcher._queued, launcher._submit = tmp_path / ".slurm", queue.copy, submit
        monkeypatch.setattr(launcher, "_wait", lambda jobs: waited.append(list(jobs)))
        launcher.run([job_of(0, tmp_path / "0")])

    waited = []
    with ThreadPoolExecutor() as pool:
        list(pool.map(command, range(2)))
    assert waited == [["0_0"], ["0_0"]]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["hydra.launcher.jobs=1.5"], r"hydra\.launcher\.jobs=1\.5 has the wrong type or value: expected an integer"),
        (["hydra.launcher.jobs=null"], r"hydra\.launcher\.jobs=None .* expected an integer"),
        (["-m", "hydra.launcher.jobs=0"], r"hydra\.launcher\.jobs=0: give at least 1"),  # -m may stand anywhere
        (["+hydra.launcher.foo=1"], r"unknown key hydra\.launcher\.foo=1"),
        (["hydra.launcher.jbos=2"], r"unknown key hydra\.launcher\.jbos=2; did you mean 'hydra\.launcher\.jobs'"),
        ([SLURM, "hydra.launcher.nodes=two"], r"hydra\.launcher\.nodes=two .* expected an integer"),
        ([SLURM, "hydra.launcher.nods=2"], r"unknown key .* did you mean 'hydra\.launcher\.nodes'"),
        ([OPTUNA, "hydra.sweeper.n_trials=0"], r"hydra\.sweeper\.n_trials=0: give at least 1"),
        ([OPTUNA, "hydra.sweeper.metric=3"], r"hydra\.sweeper\.metric=3 .* expected text"),
        ([OPTUNA, "hydra.sweeper.seed=x"], r"hydra\.sweeper\.seed=x .* expected an integer"),
        ([OPTUNA, "hydra.sweeper.direction=up"], r"hydra\.sweeper\.direction=up .* expected one of maximize, minimize"),
    ],
)
def test_a_wrong_option_of_a_launcher_or_sweeper_is_refused_in_a_line(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "exit_on_signal", lambda: None)  # signals stay pytest's
    monkeypatch.setattr(sys, "argv", ["ip2p-train", *([] if "-m" in words else ["-m"]), "seed=0,1", *words])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as ended:
        train.main()
    printed = capsys.readouterr()
    assert ended.value.code == 2 and not list(tmp_path.iterdir())
    assert re.match(f"error: {line}", printed.err) and printed.err.count("\n") == 1
