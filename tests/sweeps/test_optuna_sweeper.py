"""The Optuna sweeper: its search space, its study, and a study that is killed in the middle."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from ip2p_lightning.errors import SweepError, UserError  # noqa: E402
from ip2p_lightning.runs.optuna_storage import make_pruner  # noqa: E402
from ip2p_lightning.sweeps.job import Job  # noqa: E402
from ip2p_lightning.sweeps.optuna_sweeper import OptunaSweeper  # noqa: E402
from ip2p_lightning.sweeps.search_space import flat, make_sampler, overrides_of, read_space  # noqa: E402
from ip2p_lightning.sweeps.study import Study, lock_study, name_of  # noqa: E402
from ip2p_lightning.system.files import write_json  # noqa: E402
from tests.support.sweeping import SMALL, await_that, started, sweep  # noqa: E402


@pytest.mark.parametrize(
    ("word", "distribution"),
    [
        ("optimizer.lr=tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("model.drop=interval(0.0,0.2)", FloatDistribution(0.0, 0.2)),
        ("loader.batch_size=int(interval(2,8))", IntDistribution(2, 8)),
        ("loader.batch_size=range(2,9,3)", IntDistribution(2, 8, step=3)),
        ("seed=range(0,3)", IntDistribution(0, 2)),
        ("prompts=name,single", CategoricalDistribution(["name", "single"])),
        ("prompts=glob(s*)", CategoricalDistribution(["single"])),
        ("model.ema=0.9,null", CategoricalDistribution([0.9, "null"])),
    ],
)
def test_hydras_grammar_is_the_search_space(loader, word, distribution):
    space, fixed = read_space([word, "task=denoise"], loader)
    assert space == {word.partition("=")[0]: distribution}
    assert fixed == ["task=denoise"]


def test_the_command_line_wins_over_the_config(loader):
    params = flat({"optimizer": {"lr": "interval(0.1,0.2)"}, "model.drop": "interval(0,1)"})
    space, fixed = read_space([*params, "optimizer.lr=1e-3"], loader)
    assert list(space) == ["model.drop"] and fixed == ["optimizer.lr=1e-3"]


@pytest.mark.parametrize("word", ["seed=range(3,3)", "optimizer.lr=tag(log,interval(0,1))"])
def test_what_is_no_search_space_is_refused_by_name(loader, word):
    with pytest.raises(UserError, match=word.partition("=")[0]):
        read_space([word], loader)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: make_sampler("tbe", 0, {}), "known: "),
        (lambda: make_pruner("medan", 1, 1), "known: "),
        (lambda: make_sampler("grid", 0, {"lr": FloatDistribution(0, 1)}), "lr is continuous"),
    ],
)
def test_unknown_names_and_a_continuous_grid_are_refused(make, line):
    with pytest.raises(UserError, match=line):
        make()


def search(path: Path, count: int, sampler: str = "tpe", storage: str | None = None, die_at: int = -1) -> Study:
    """Trials of a formula up to `count`; at trial `die_at` the process "dies": the trial stays as it is."""
    space = {"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(["a", "b"])}
    space = {key: IntDistribution(0, 2) for key in "xy"} if sampler == "grid" else space
    study = Study("s", storage or str(path / "journal.log"), "maximize", space, ["task=denoise"], sampler, 0)
    waiting = study.unfinished()
    while len(study.ended) < count:
        trial = waiting.pop(0) if waiting else study.ask()
        if trial.number == die_at:
            break
        study.close(trial, "complete", -((trial.params["x"] - 0.3) ** 2), path)
    return study


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "grid", "gp"])
def test_a_study_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, sampler):
    if sampler == "gp":
        pytest.importorskip("scipy")
    count = 9 if sampler == "grid" else 14
    whole = search(tmp_path / "whole", count, sampler)
    search(tmp_path / "cut", count, sampler, die_at=5)
    resumed = search(tmp_path / "cut", count, sampler)
    assert [t.params for t in resumed.trials] == [t.params for t in whole.trials]
    assert resumed.best().number == whole.best().number
    assert len({str(t.params) for t in resumed.trials}) == count  # none lost, none doubled


def test_sqlite_is_a_storage_too(tmp_path):
    pytest.importorskip("sqlalchemy")
    url = f"sqlite:///{tmp_path}/study.db"
    search(tmp_path, 8, storage=url, die_at=3)
    study = search(tmp_path, 8, storage=url)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 8


def test_a_failed_trial_counts_and_does_not_stop_the_study(tmp_path):
    study = search(tmp_path, 2)
    study.close(study.ask(), "failed", None)
    study.close(study.ask(), "complete", float("nan"))
    assert [t.state.name for t in study.ended] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    study.write(tmp_path, ["task=denoise"], "val/psnr")
    rows = list(csv.DictReader((tmp_path / "study.csv").open()))
    assert [row["state"] for row in rows] == ["complete", "complete", "fail", "fail"]
    assert f"trial: {study.best().number}" in (tmp_path / "best.yaml").read_text()


def test_one_process_at_a_time_and_one_question_a_study(tmp_path):
    lock = lock_study(tmp_path)
    with pytest.raises(UserError, match="another process"):
        lock_study(tmp_path)
    lock.close()
    search(tmp_path, 1)
    with pytest.raises(UserError, match="was begun"):
        Study("s", str(tmp_path / "journal.log"), "maximize", {"x": FloatDistribution(0, 1)}, ["seed=2"], "tpe", 0)
    assert name_of({"x": FloatDistribution(0, 1)}, ["a"], "m", "maximize") != name_of({}, ["a"], "m", "maximize")


def test_floats_have_six_digits():
    assert overrides_of({"lr": 0.00024345913374, "n": 3, "p": "name"}) == ["lr=0.000243459", "n=3", "p=name"]


def trials_of(path: Path, monkeypatch, logged: str, metric: str = "val/psnr") -> tuple[OptunaSweeper, list[Job]]:
    """A sweeper of two trials whose jobs are complete at once and have `logged` one line."""
    jobs = []

    def prepare(name, trial):
        jobs.append(Job(trial.number, [], path / str(trial.number), [], {}))
        return jobs[-1]

    def run(batch):
        for job in batch:
            job.folder.mkdir(exist_ok=True)
            write_json(job.folder / "config.json", {})
            write_json(job.folder / "status.json", {"state": "complete"})
            (job.folder / "metrics.jsonl").write_text(logged)

    sweeper = OptunaSweeper(n_trials=2, metric=metric)
    sweeper.launcher, sweeper.study = SimpleNamespace(jobs=1, run=run), search(path, 0)
    monkeypatch.setattr(sweeper, "_prepare", prepare)
    return sweeper, jobs


def test_a_metric_that_trials_do_not_log_ends_the_study_after_the_first(tmp_path, monkeypatch):
    for _ in range(2):  # the second command looks at the same trial, which is still open
        sweeper, jobs = trials_of(tmp_path, monkeypatch, '{"step": 1, "val/psnr": 20.0}', "val/psnrr")
        with pytest.raises(SweepError, match=r"no val/psnrr in .*did you mean 'val/psnr'\?; known: val/psnr"):
            sweeper._run("s")
        assert [job.number for job in jobs] == [0] and not sweeper.study.ended


def test_a_metric_that_is_not_finite_is_a_failed_job(tmp_path, monkeypatch):
    sweeper, jobs = trials_of(tmp_path, monkeypatch, '{"step": 1, "val/psnr": NaN}')
    sweeper._run("s")
    assert [t.state.name for t in sweeper.study.ended] == ["FAIL", "FAIL"]
    assert [(job.state, job.reason) for job in jobs] == [("failed", "val/psnr is nan")] * 2  # `conclude` ends with 8


LONG = 3600  # seconds: a trial is a process, which takes 10 s on an idle machine and a minute on a crowded one


def command(trials: int) -> list[str]:
    space = ["optimizer.lr=tag(log,interval(1e-5,1e-1))", "seed=range(0,3)"]
    options = ["hydra/sweeper=optuna", f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.pruner_startup=2"]
    return [*SMALL, "trainer.max_steps=3", "val_every=1", "save_every=1", *options, *space]


def rows_of(folder: Path, trials: int) -> list[dict[str, str]]:
    """The rows of a study that is run to its end."""
    code, output = sweep(folder, *command(trials), timeout=LONG)
    assert code == 0 and "best: trial" in output, output
    return list(csv.DictReader(next(folder.glob("study-*/study.csv")).open()))


def killed_in_the_middle(folder: Path, trials: int, at: int) -> list[dict[str, str]]:
    """The rows of a study whose controller is killed -9 while trial `at` runs, and which is then started again."""
    with started(folder, "-m", *command(trials)):  # and kills it
        await_that(lambda: len(list(folder.glob("*/metrics.jsonl"))) > at, LONG)
    return rows_of(folder, trials)


def test_a_killed_controllers_study_goes_on(tmp_path):
    rows = killed_in_the_middle(tmp_path / "sweep", trials=2, at=1)
    assert len(rows) == 2 and {row["state"] for row in rows} <= {"complete", "pruned"}
    assert len({row["folder"] for row in rows}) == len(list((tmp_path / "sweep").glob("*/metrics.jsonl"))) == 2


def cut_and_whole(work: Path, trials: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """What must be equal of each trial of a study that is killed in the middle, and of one that nobody kills."""
    studies = killed_in_the_middle(work / "cut", trials, at=trials // 2 - 1), rows_of(work / "whole", trials)
    same = ["trial", "state", "val/psnr", "optimizer.lr", "seed"]
    cut, whole = ([{key: row[key] for key in same} for row in rows] for rows in studies)
    return cut, whole


@pytest.mark.slow
def test_twelve_trials_killed_in_the_middle(tmp_path):
    cut, whole = cut_and_whole(tmp_path, trials=12)
    assert cut == whole
