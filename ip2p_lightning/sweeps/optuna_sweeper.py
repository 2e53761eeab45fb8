"""A Hydra sweeper that searches with Optuna (ask and tell).

hydra-optuna-sweeper needs Optuna < 3, repeats trials when a study is continued, and cannot prune.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from ip2p_lightning.errors import SweepError, UserError, suggest
from ip2p_lightning.runs.folder import METRICS
from ip2p_lightning.runs.metrics_log import last_metrics
from ip2p_lightning.runs.optuna_storage import STUDY, TRIAL, import_optuna, make_pruner
from ip2p_lightning.sweeps.job import Job, failures_kept, make_job
from ip2p_lightning.sweeps.local_launcher import LocalLauncher
from ip2p_lightning.sweeps.options import read_options
from ip2p_lightning.sweeps.plugins import refuse_others
from ip2p_lightning.sweeps.search_space import flat, overrides_of, read_space
from ip2p_lightning.sweeps.study import Study, lock_study, name_of
from ip2p_lightning.system.files import write_json


@dataclass(frozen=True)
class SearchOptions:
    """Options of a study; ``conf/hydra/sweeper/optuna.yaml`` explains each."""

    n_trials: int = 20  # over all starts of the study
    sampler: str = "tpe"
    seed: int = 0  # of the sampler
    direction: Literal["maximize", "minimize"] = "maximize"
    metric: str = "val/psnr"  # its last value in metrics.jsonl is the objective, those at validations drive pruning
    pruner: str = "median"
    pruner_startup: int = 5  # complete trials before any is pruned (median)
    pruner_warmup: int = 0  # optimizer steps before a trial is pruned (median)
    storage: str | None = None  # a URL such as sqlite:///study.db; None = a journal file in the study's folder
    study_name: str | None = None  # None = named after the search space and the fixed overrides
    params: dict[str, Any] = field(default_factory=dict)  # search space, {optimizer.lr: "tag(log,interval(1e-5,1e-2))"}


AT_LEAST = {"n_trials": 1, "pruner_startup": 0, "pruner_warmup": 0}


class OptunaSweeper(Sweeper):
    """Trains `n_trials` trials in all; the same command continues a stopped study.

    Raises:
        UserError: a wrong option (see `SearchOptions`), no Optuna, an empty search space, no validations.
        SweepError: a complete trial did not log the metric.
    """

    def __init__(self, **options: Any) -> None:
        # unresolved: interpolations in `params` refer to a job's config
        self.options = read_options(SearchOptions, "hydra.sweeper", options, AT_LEAST, resolve=False)

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.context, self.config = hydra_context, config
        refuse_others(str(OmegaConf.select(config, "hydra.launcher._target_")))
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Ask, launch and report, until there are `n_trials`."""
        import_optuna()
        if OmegaConf.select(self.config, "dry_run"):
            raise UserError("a dry run has no scores to search by; check one trial without -m and hydra/sweeper=optuna")
        LocalLauncher.remedy = "a failed trial counts; the same command goes on with the others"
        space, self.fixed = read_space([*flat(self.options.params), *arguments], self.context.config_loader)
        if not space:
            raise UserError("nothing to search: give a key an interval(a,b), range(a,b) or choice(a,b)")
        options = self.options
        make_pruner(options.pruner, options.pruner_startup, options.pruner_warmup)
        name = options.study_name or name_of(space, self.fixed, options.metric, options.direction)
        folder = Path(str(OmegaConf.select(self.config, "hydra.sweep.dir"))).absolute() / name
        lock = lock_study(folder)
        storage = options.storage or str(folder / "journal.log")
        self.study = Study(name, storage, options.direction, space, self.fixed, options.sampler, options.seed)
        pruner = {"pruner": options.pruner, "startup": options.pruner_startup, "warmup": options.pruner_warmup}
        os.environ[STUDY] = json.dumps({"storage": storage, "study": name, "metric": options.metric, **pruner})
        try:
            self._run(name)
        finally:
            del os.environ[STUDY]
            self.study.write(folder, self.fixed, options.metric)
            lock.close()
        self._print_summary(folder)

    def _run(self, name: str) -> None:
        left = self.study.unfinished()
        while True:
            batch, left = left[: self.launcher.jobs], left[self.launcher.jobs :]
            open_trials = len(batch) + len(left)
            while len(batch) < self.launcher.jobs and len(self.study.ended) + open_trials < self.options.n_trials:
                batch.append(self.study.ask())
                open_trials += 1
            if not batch or not self._launch(name, batch):
                return

    def _launch(self, name: str, batch: Sequence[Any]) -> bool:
        """Run a batch and report it to the study; False if jobs were preempted: the sweep itself is being stopped."""
        new: dict[str, Any] = {}
        for trial in batch:
            new.setdefault(" ".join(overrides_of(trial.params)), trial)
        jobs = {t.number: self._prepare(name, t) for t in new.values() if self.study.duplicate(t) is None}
        if jobs:
            self.launcher.run(list(jobs.values()))
        stopped = any(job.state == "preempted" for job in jobs.values())
        for trial in sorted(batch, key=lambda t: t.number not in jobs):  # duplicates after the trials they repeat
            self._close(trial, jobs.get(trial.number))
        return not stopped

    def _prepare(self, name: str, trial: Any) -> Job:
        job = make_job(self.context, self.config, [*self.fixed, *overrides_of(trial.params)], trial.number)
        if self.options.metric.startswith("val/") and not job.config["val_every"]:
            raise UserError(f"val_every=0 and hydra.sweeper.metric={self.options.metric}: a study needs validations")
        with failures_kept(job):
            job.folder.mkdir(parents=True, exist_ok=True)
            write_json(job.folder / TRIAL, {"study": name, "number": trial.number})
        return job

    def _close(self, trial: Any, job: Job | None) -> None:
        if job is not None:
            if job.state != "preempted":  # the next start continues it
                score = self._score(job) if job.done else None
                state = "failed" if job.state == "complete" and not job.done else job.state
                self.study.close(trial, state, score, job.folder)
            return
        same = self.study.duplicate(trial)
        if same is not None:
            self.study.close(trial, same.state.name.lower(), same.value, same.user_attrs.get("folder"))
        elif not trial.state.is_finished():
            self.study.close(trial, "failed", None)

    def _score(self, job: Job) -> float:
        """The metric of a complete trial; a non-finite one makes it a failure.

        Raises SweepError: the metric was not logged, so no trial will have it; this trial stays open.
        """
        logged, metric = last_metrics(job.folder), self.options.metric
        if logged.get(metric) is None:
            known = sorted(key for key in logged if "/" in key)
            missing = f"no {metric} in {job.folder / METRICS}{suggest(metric, known)}; known: {', '.join(known)}"
            raise SweepError(f"hydra.sweeper.metric={metric}: {missing}")
        score = float(logged[metric])
        if not math.isfinite(score):
            job.failure = f"{metric} is {score}"
        return score

    def _print_summary(self, folder: Path) -> None:
        counts = Counter(t.state.name.lower() for t in self.study.ended)
        states = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        print(f"study of {len(self.study.ended)} trials ({states}): {folder}/study.csv")
        best = self.study.best()
        if best is not None:
            words = " ".join(overrides_of(best.params))
            print(f"best: trial {best.number}, {self.options.metric} = {best.value:.4f}: {words}")
