"""What a trial's run needs of its Optuna study: storage, trial number, pruner."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import UserError

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
    """A study's storage: a journal file, or a URL such as ``sqlite:///study.db``. Raises UserError for a wrong URL."""
    optuna = import_optuna()
    if "://" not in name:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(name))
    try:
        return optuna.storages.get_storage(name)
    except Exception as error:  # whatever the database's driver raises
        raise UserError(f"hydra.sweeper.storage={name}: {str(error).splitlines()[0]}") from None


def make_pruner(name: str, startup: int, warmup: int) -> Any:
    """A pruner by name; `startup` (complete trials) and `warmup` (steps) before any pruning are of ``median``.

    Raises UserError for another name.
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
