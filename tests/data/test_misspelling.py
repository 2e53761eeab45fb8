"""Misspelt prompts: keyed, in training alone, with endings of all tasks."""

import re

import numpy as np
import pytest

from ip2p_lightning.data import CartoonDataModule, DerainDataModule, Loader, MixtureDataModule, PromptPool
from ip2p_lightning.data.misspelling import Misspelling
from ip2p_lightning.data.plan import Key
from ip2p_lightning.errors import UserError

PROMPTS = ["remove the falling rain", "brighten everything gently", "cartoonize this photograph"]


def test_nothing_changes_without_a_share():
    assert all(Misspelling(PROMPTS, 0)(prompt, np.random.default_rng(0)) == prompt for prompt in PROMPTS)


def test_the_generator_decides():
    said = Misspelling(PROMPTS, 0.5)
    assert said(PROMPTS[0], np.random.default_rng(3)) == said(PROMPTS[0], np.random.default_rng(3))
    assert len({said(PROMPTS[0], np.random.default_rng(seed)) for seed in range(20)}) > 10


def test_share_of_new_endings_and_of_invented_words():
    """A new ending is the old one again in few cases; an invented word has at most eight letters."""
    said = Misspelling(PROMPTS, 0.4)(" ".join(["stone"] * 1000), np.random.default_rng(1)).split()
    assert 1150 < len(said) < 1250  # half of 0.4 more
    kept = sum(word == "stone" for word in said)
    assert 560 < kept < 680
    assert all(word.startswith("sto") or len(word) <= 8 for word in said)


def test_short_words_stay_and_stems_too():
    words = ["a", "an", "the", "dog"]
    said = Misspelling(PROMPTS, 1.0)(" ".join([*words, "rainfall"] * 50), np.random.default_rng(2)).split()
    assert sum(word in words for word in said) >= 200
    assert sum(word.startswith("rainf") for word in said) >= 50  # of eight letters three may go


def module(share: float) -> MixtureDataModule:
    tasks = {
        "cartoon": CartoonDataModule(prompts=PromptPool(["cartoonize the left half"], ["as comic strip"])),
        "derain": DerainDataModule(prompts=PromptPool(["remove rainwater"], ["unrain everything"])),
    }
    return MixtureDataModule(tasks, loader=Loader(misspell=share))


def drawn(data, split="train", held_out=False, draws=range(40)):
    task = data.datasets(split, held_out).tasks["cartoon"]
    return [task.drawn(Key("cartoon", 0, 0, draw)[1:]) for draw in draws]


def test_training_alone_is_misspelt():
    data = module(0.5)
    assert len({prompt for _, prompt, _ in drawn(data)}) > 20
    assert {prompt for _, prompt, _ in drawn(data, "val")} == {"cartoonize the left half"}
    assert {prompt for _, prompt, _ in drawn(data, "train", held_out=True)} == {"as comic strip"}


def test_pixels_do_not_depend_on_it_and_a_side_is_still_a_side():
    plain, misspelt = drawn(module(0.0)), drawn(module(0.5))
    assert [place for place, _, _ in plain] == [place for place, _, _ in misspelt]
    assert all(view.flip == 0 for _, _, view in misspelt)  # also where "left" lost its end


def test_endings_come_from_all_tasks():
    endings = {
        re.sub("^cartoon(ize|iz|i)?", "", prompt.split()[0]) for _, prompt, _ in drawn(module(1.0), draws=range(300))
    }
    assert {"ter", "ove"} & {ending[-3:] for ending in endings}  # rainwater, remove


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(UserError, match=r"loader\.misspell=.*within \[0, 1\]"):
        Loader(misspell=share)
