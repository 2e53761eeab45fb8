"""Misspelt prompts: keyed, in training alone, with endings of all tasks."""

import numpy as np
import pytest

from ip2p_lightning.data.batch_sampler import Key
from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.datamodules import CartoonDataModule, DerainDataModule, MixtureDataModule
from ip2p_lightning.data.prompt_augmentation import Misspelling
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.errors import UserError

PROMPTS = ["remove the falling rain", "brighten everything gently", "cartoonize this photograph"]


def test_the_generator_decides_and_nothing_changes_without_a_share():
    assert all(Misspelling(PROMPTS, 0)(prompt, np.random.default_rng(0)) == prompt for prompt in PROMPTS)
    said = Misspelling(PROMPTS, 0.5)
    assert said(PROMPTS[0], np.random.default_rng(3)) == said(PROMPTS[0], np.random.default_rng(3))
    assert len({said(PROMPTS[0], np.random.default_rng(seed)) for seed in range(20)}) > 10


def test_share_of_new_endings_and_of_invented_words():
    """A new ending is the old one again in some cases; an invented word begins with three letters at most."""
    said = Misspelling(PROMPTS, 0.4)(" ".join(["stone"] * 1000), np.random.default_rng(1)).split()
    assert 1150 < len(said) < 1250  # half of 0.4 more
    stems = [word for word in said if word.startswith("ston")]
    assert len(stems) == 1000 and 600 < stems.count("stone") < 720


def test_a_stem_is_never_lost_and_hardly_ever_invented():
    """It says which task is meant: a misspelt prompt must not be that of another."""
    words = [word for prompt in PROMPTS for word in prompt.split()]
    said = Misspelling(PROMPTS, 1.0)(" ".join(words * 100), np.random.default_rng(2)).split()
    for stem in {word[:4] for word in words if len(word) >= 4}:
        meant = 100 * sum(word.startswith(stem) for word in words)
        assert meant <= sum(word.startswith(stem) for word in said) <= 1.03 * meant


def module(share: float) -> MixtureDataModule:
    cartoon = CartoonDataModule(prompts=PromptPool(["cartoonize the left half"], ["as comic strip"]))
    derain = DerainDataModule(prompts=PromptPool(["remove rainwater"], ["unrain everything"]))
    return MixtureDataModule({"cartoon": cartoon, "derain": derain}, loader=Loader(misspell=share))


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
    """ "rainwater" is a word of the other task's."""
    said = " ".join(prompt for _, prompt, _ in drawn(module(1.0), draws=range(100))).split()
    assert sum(word.endswith("ter") for word in said) > 10


def test_a_share_is_a_share():
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match=r"loader\.misspell=.*within \[0, 1\]"):
            Loader(misspell=share)
