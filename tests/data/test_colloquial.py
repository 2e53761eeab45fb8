"""The colloquial test sentences: enough of them, all different, and none that a pool trains on or holds out."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from ip2p_lightning.data.prompts import cleaned_prompt, mentions_side

POOLS = Path(__file__).parents[2] / "conf" / "prompts"
COLLOQUIAL = POOLS / "parts" / "colloquial.yaml"
OTHERS = sorted(path for path in POOLS.rglob("*.yaml") if path != COLLOQUIAL)
TASKS = ("cartoon", "derain", "denoise", "lowlight")


def key(sentence):
    return " ".join(re.findall(r"\w+", sentence.casefold()))


def sentences(path):
    """task -> everything a file trains on or holds out."""
    pools = {task: pool for task, pool in yaml.safe_load(path.read_text()).items() if isinstance(pool, dict)}
    return {task: [*pool.get("prompts", []), *pool.get("held_out", [])] for task, pool in pools.items()}


def test_thirty_a_task():
    assert {task: len(found) for task, found in sentences(COLLOQUIAL).items()} == dict.fromkeys(TASKS, 30)


def test_all_differ():
    counts = Counter(key(s) for found in sentences(COLLOQUIAL).values() for s in found)
    assert counts.most_common(1)[0][1] == 1


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_none_stands_in_a_pool_or_among_the_held_out(path):
    known = {key(s) for found in sentences(path).values() for s in found}
    assert known
    assert not known & {key(s) for found in sentences(COLLOQUIAL).values() for s in found}


@pytest.mark.parametrize("task", TASKS)
def test_each_is_a_prompt_that_mirroring_keeps_true(task):
    for i, sentence in enumerate(sentences(COLLOQUIAL)[task]):
        assert cleaned_prompt(sentence, f"{task}[{i}]") == sentence
        assert not mentions_side(sentence)
