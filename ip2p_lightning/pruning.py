"""A run as a trial of an Optuna study: it reports each validation, and stops when the study's pruner says so.

The environment names the study, the file ``trial.json`` in the run's folder the trial: the config does not change, so a
trial's run is the run that the same overrides train by hand.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from ip2p_lightning.errors import PrunedError, UserError

STUDY = "IP2P_STUDY"  # in a job's environment, JSON: storage, study, metric, pruner, startup, warmup
TRIAL = "trial.json"


def import_optuna() -> Any:
    """The library, quiet. Raises UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("hydra/sweeper=optuna needs Optuna; pip install 'ip2p-lightning[cluster]'") from None
    optuna.logging.set_verbosity(logging.WARNING)
    return optuna


def open_storage(name: str) -> Any:
    """A study's storage: a journal file, or what a URL such as ``sqlite:///study.db`` names.

    Raises:
        UserError: the URL cannot be opened.
    """
    optuna = import_optuna()
    if "://" not in name:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(name))
    try:
        return optuna.storages.get_storage(name)
    except Exception as error:  # whatever the database's driver raises
        raise UserError(f"hydra.sweeper.storage={name}: {str(error).splitlines()[0]}") from None


def make_pruner(name: str, startup: int, warmup: int) -> Any:
    """A pruner by name: ``none``, ``median``, ``halving`` or ``hyperband``.

    Args:
        name: which.
        startup: trials that must be complete before any is pruned (median).
        warmup: optimizer steps before which no trial is pruned (median).

    Raises:
        UserError: another name.
    """
    pruners = import_optuna().pruners
    known = {
        "none": pruners.NopPruner,
        "median": lambda: pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup),
        "halving": pruners.SuccessiveHalvingPruner,
        "hyperband": pruners.HyperbandPruner,
    }
    if name not in known:
        raise UserError(f"hydra.sweeper.pruner={name}: no such pruner; known: {', '.join(known)}")
    return known[name]()


def pruning(folder: Path, scores: Any) -> list[Callback]:
    """The callback of a trial; none for a run that is not one."""
    if STUDY not in os.environ or not (folder / TRIAL).exists():
        return []
    study = json.loads(os.environ[STUDY])
    trial = json.loads((folder / TRIAL).read_text())
    return [Pruning(study, trial["number"], scores)] if trial["study"] == study["study"] else []


class Pruning(Callback):
    """Reports to the study after each validation.

    Args:
        study: storage, study, metric, pruner, startup, warmup.
        number: the trial's.
        scores: has the last validation's metrics in ``latest``.

    Raises:
        PrunedError: from within the fit, on every rank.
    """

    def __init__(self, study: dict[str, Any], number: int, scores: Any) -> None:
        self.study, self.number, self.scores = study, number, scores

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.global_step >= trainer.max_steps:
            return  # a run that has come to its end is kept
        stop = self._report(trainer.global_step) if trainer.is_global_zero else False
        if trainer.world_size > 1:
            stop = trainer.strategy.broadcast(stop, src=0)
        if stop:
            metric = self.study["metric"]
            value = self.scores.latest[metric]
            raise PrunedError(f"trial {self.number}: {metric} = {value:.4f} at step {trainer.global_step}")

    def _report(self, step: int) -> bool:
        """Store the value once (a continued run validates a step again), ask the pruner."""
        value = self.scores.latest.get(self.study["metric"])
        if value is None:
            return False
        optuna = import_optuna()
        storage = open_storage(self.study["storage"])
        study = optuna.load_study(
            study_name=self.study["study"],
            storage=storage,
            pruner=make_pruner(self.study["pruner"], self.study["startup"], self.study["warmup"]),
        )
        trial = next(t for t in study.get_trials(deepcopy=False) if t.number == self.number)
        if trial.state.is_finished():  # told already, e.g. by hand
            return False
        if step not in trial.intermediate_values:
            storage.set_trial_intermediate_value(trial._trial_id, step, value)
        return bool(study.pruner.prune(study, storage.get_trial(trial._trial_id)))
