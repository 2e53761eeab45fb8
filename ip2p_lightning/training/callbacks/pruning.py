"""A run as a trial of an Optuna study: reports each validation and stops when the study's pruner decides so.

The environment names the study and ``trial.json`` in the run's folder the trial, so that the config of a trial is that
of the same overrides without a study.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from ip2p_lightning.errors import PrunedError
from ip2p_lightning.runs.optuna_storage import STUDY, TRIAL, import_optuna, make_pruner, open_storage


def pruning(folder: Path, scores: Any) -> list[Callback]:
    """The callback of a trial; none for a run that is not one."""
    if STUDY not in os.environ or not (folder / TRIAL).exists():
        return []
    study = json.loads(os.environ[STUDY])
    trial = json.loads((folder / TRIAL).read_text())
    return [Pruning(study, trial["number"], scores)] if trial["study"] == study["study"] else []


class Pruning(Callback):
    """Reports to the study after each validation. Raises PrunedError from within the fit, on every rank.

    Args:
        study: storage, study, metric, pruner, startup, warmup.
        number: the trial's.
        scores: has the last validation's metrics in ``latest``.
    """

    def __init__(self, study: dict[str, Any], number: int, scores: Any) -> None:
        self.study, self.number, self.scores = study, number, scores

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.global_step >= trainer.max_steps:
            return  # a finished run is kept
        stop = self._report(trainer.global_step) if trainer.is_global_zero else False
        if trainer.world_size > 1:
            stop = trainer.strategy.broadcast(stop, src=0)
        if stop:
            reached = f"{self.study['metric']} = {self.scores.latest[self.study['metric']]:.4f}"
            raise PrunedError(f"trial {self.number}: {reached} at step {trainer.global_step}")

    def _report(self, step: int) -> bool:
        """Store the value once (a continued run may validate a step again) and ask the pruner."""
        value = self.scores.latest.get(self.study["metric"])
        if value is None:
            return False
        optuna = import_optuna()
        storage = open_storage(self.study["storage"])
        pruner = make_pruner(self.study["pruner"], self.study["startup"], self.study["warmup"])
        study = optuna.load_study(study_name=self.study["study"], storage=storage, pruner=pruner)
        trial = next(t for t in study.get_trials(deepcopy=False) if t.number == self.number)
        if trial.state.is_finished():  # e.g. set by hand
            return False
        if step not in trial.intermediate_values:
            storage.set_trial_intermediate_value(trial._trial_id, step, value)
        return bool(study.pruner.prune(study, storage.get_trial(trial._trial_id)))
