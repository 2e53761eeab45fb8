"""An Optuna study in a folder: its trials, over all processes that ran them, and its results."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ip2p_lightning.errors import UserError
from ip2p_lightning.rng import seed_of
from ip2p_lightning.runs.optuna_storage import import_optuna, open_storage
from ip2p_lightning.sweeps.search_space import make_sampler, overrides_of
from ip2p_lightning.system.escaping import csv_cell
from ip2p_lightning.system.files import write_atomic
from ip2p_lightning.system.locks import try_lock

FIXED, FOLDER = "fixed", "folder"


def name_of(space: Mapping[str, Any], fixed: list[str], metric: str, direction: str) -> str:
    """A name that is a function of the search space, fixed overrides, metric and direction."""
    key = json.dumps([{k: repr(v) for k, v in sorted(space.items())}, sorted(fixed), metric, direction])
    return f"study-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def lock_study(folder: Path) -> Any:
    """Lock a study's folder for this process. Raises UserError if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = try_lock(folder / ".lock")
    if lock is None:
        raise UserError(f"{folder}: another process is running this study; wait for it or stop it")
    return lock


class Study:
    """Asks Optuna for trials and reports their results.

    Args:
        storage: a file or a URL.
        space: key to distribution.
        fixed: overrides of every trial.
        sampler: its name; `seed` is combined with the number of trials so far: a continued study repeats none.

    Raises UserError: the storage holds a study of this name with other fixed overrides or another direction.
    """

    def __init__(
        self, name: str, storage: str, direction: str, space: dict[str, Any], fixed: list[str], sampler: str, seed: int
    ) -> None:
        optuna = import_optuna()
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.states, self.space, self.sampler, self.seed = optuna.trial.TrialState, space, sampler, seed
        self.study = optuna.create_study(
            study_name=name, storage=open_storage(storage), direction=direction, load_if_exists=True
        )
        stored = self.study.user_attrs.get(FIXED)
        if stored is None:
            self.study.set_user_attr(FIXED, sorted(fixed))
        elif stored != sorted(fixed) or self.study.direction.name.lower() != direction:
            began = " ".join(stored) or "no fixed overrides"
            raise UserError(
                f"study {name} was begun to {self.study.direction.name.lower()} with {began}; use another study_name"
            )

    @property
    def trials(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False)

    @property
    def ended(self) -> list[Any]:
        """Finished trials, in any state, that were completely drawn."""
        return [t for t in self.trials if t.state.is_finished() and self._whole(t)]

    def _whole(self, trial: Any) -> bool:
        return set(trial.params) >= set(self.space)

    def unfinished(self) -> list[Any]:
        """Trials that a dead controller left running; those not completely drawn are closed as failed."""
        running = [t for t in self.trials if t.state == self.states.RUNNING]
        for trial in running:
            if not self._whole(trial):
                self.study.tell(trial.number, state=self.states.FAIL)
        return [t for t in running if self._whole(t)]

    def ask(self) -> Any:
        """A new trial, all of its values drawn and stored."""
        count = 0 if self.sampler == "grid" else len(self.trials)  # a grid is always numbered in the same order
        self.study.sampler = make_sampler(self.sampler, seed_of(self.seed, "optuna", count) % 2**32, self.space)
        try:
            trial = self.study.ask(fixed_distributions=self.space)
        except ImportError as error:
            raise UserError(f"hydra.sweeper.sampler={self.sampler}: {str(error).splitlines()[0]}") from None
        return self.trials[trial.number]

    def duplicate(self, trial: Any) -> Any:
        """A complete or pruned trial with the same overrides, whose result is reused; None without one."""
        words = overrides_of(trial.params)
        good = (self.states.COMPLETE, self.states.PRUNED)
        return next((t for t in self.trials if t.state in good and overrides_of(t.params) == words), None)

    def close(self, trial: Any, state: str, value: float | None, folder: Path | None = None) -> None:
        """Close a trial. `state`: the run's; any but complete (with a finite value) and pruned is a failure."""
        if folder is not None:
            self.study._storage.set_trial_user_attr(trial._trial_id, FOLDER, str(folder))
        if state == "complete" and value is not None and math.isfinite(value):
            self.study.tell(trial.number, value)
        else:
            # Optuna gives a pruned trial its last report for a value
            self.study.tell(trial.number, state=self.states.PRUNED if state == "pruned" else self.states.FAIL)

    def best(self) -> Any:
        """The best complete trial, None without one."""
        complete = [t for t in self.trials if t.state == self.states.COMPLETE]
        sign = 1 if self.study.direction.name == "MAXIMIZE" else -1
        return max(complete, key=lambda t: sign * t.value, default=None)

    def write(self, folder: Path, fixed: list[str], metric: str) -> None:
        """``study.csv`` with every trial, ``best.yaml`` with the best one's overrides."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", "state", metric, *self.space, "folder"])
        for t in self.trials:
            values = [t.params.get(key, "") for key in self.space]
            row = [t.number, t.state.name.lower(), t.value, *values, t.user_attrs.get(FOLDER, "")]
            writer.writerow(map(csv_cell, row))
        write_atomic(folder / "study.csv", text.getvalue().encode())
        best = self.best()
        if best is not None:
            found = {"trial": best.number, metric: best.value, "folder": best.user_attrs.get(FOLDER)}
            found["overrides"] = [*fixed, *overrides_of(best.params)]
            write_atomic(folder / "best.yaml", yaml.safe_dump(found, sort_keys=False).encode())


logging.getLogger("optuna").setLevel(logging.WARNING)
