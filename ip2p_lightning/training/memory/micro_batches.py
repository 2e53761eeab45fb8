"""How many micro-batches of an optimizer step run as one, where loader.merge=auto leaves that to the memory.

Chosen when a run begins, by the process that leads it, and kept: batches of another size round differently, and what a
checkpoint counts is merged micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import UserError
from ip2p_lightning.runs.folder import note, read_status
from ip2p_lightning.training.distributed import environment

KEY = "merge"  # in the run's status


def settled(config: Mapping[str, Any], folder: Path, afresh: bool = False) -> int:
    """The number for a run: the config's; where that is ``auto`` the one that the run's status holds, or a choice by
    the estimate of its memory, which is then put there.

    Args:
        config: checked.
        folder: the run's.
        afresh: whether the run begins: what a start before it chose, and did not get far with, is forgotten.

    Raises:
        UserError: the accumulation has been changed to what the number does not divide.
    """
    asked = config["loader"].get("merge", 1)
    if asked != "auto":
        return int(asked)
    whole = config["trainer"].get("accumulate_grad_batches", 1)
    number = None if afresh else read_status(folder).get(KEY)
    if number is None:
        from ip2p_lightning.training.memory.estimate import decided

        number = decided(config)["loader"]["merge"]
        if environment.rank() == 0:
            note(folder, **{KEY: number})
            print(f"loader.merge=auto: {number} of {whole} micro-batches run as one, by the estimate of the memory")
    if whole % number:
        raise UserError(
            f"this run takes {number} micro-batches as one (loader.merge=auto chose it), which does not divide "
            f"trainer.accumulate_grad_batches={whole}; give a multiple of {number}"
        )
    return number


def merged(config: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The config with the number in the place of ``auto``."""
    return {**config, "loader": {**config["loader"], "merge": number}}
