"""The first losses of two recipes, as recorded: whatever changes what is learnt, changes them."""

import json

import pytest

from tests.support.record_golden import FOLDER, STEPS, WORDS, losses

ACROSS_MACHINES = 1e-4  # relative: other processors add in another order


@pytest.mark.parametrize("name", WORDS)
def test_the_first_losses_are_the_recorded_ones(name, tmp_path):
    recorded = json.loads((FOLDER / f"{name}.json").read_text())
    assert recorded["words"] == WORDS[name] and len(recorded["losses"]) == STEPS, "run make golden"
    assert losses(name, tmp_path) == pytest.approx(recorded["losses"], rel=ACROSS_MACHINES)
