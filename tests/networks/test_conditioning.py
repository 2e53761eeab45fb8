"""Conditioning dropout: its three regions and its nulls."""

import pytest
import torch

from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.conditioning import Condition, Conditioner


class Lengths:
    """Encodes a prompt as its length, so that the empty prompt is told from zeros."""

    def encode(self, prompts):
        return torch.tensor([len(p) + 0.5 for p in prompts]).view(-1, 1, 1).expand(-1, 7, 4)


def conditioned(n, **arguments):
    conditioner = Conditioner(Lengths(), **arguments)
    return conditioner, conditioner.encode(torch.ones(n, 2, 3, 3), ["word"] * n)


def lost(condition):
    return (condition.text == 0.5).all((1, 2)), (condition.image == 0).all(3).all(2).all(1)


def test_regions_and_their_borders():
    p = 0.125  # exact in binary
    conditioner, condition = conditioned(8, p=p)
    u = torch.tensor([0, p - 1e-6, p, 2 * p - 1e-6, 2 * p, 3 * p - 1e-6, 3 * p, 1])
    text, image = lost(conditioner.drop(condition, u))
    assert text.int().tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert image.int().tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_what_is_kept_is_untouched():
    conditioner, condition = conditioned(3)
    dropped = conditioner.drop(condition, torch.ones(3))
    assert torch.equal(dropped.image, condition.image) and torch.equal(dropped.text, condition.text)
    for p in (0, 0.0, None):
        conditioner, condition = conditioned(3, p=p)
        assert conditioner.drop(condition, torch.zeros(3)) is condition


def test_a_bridge_loses_text_only():
    conditioner, condition = conditioned(3, p=0.1, drop_image=False)
    text, image = lost(conditioner.drop(condition, torch.tensor([0.15, 0.19, 0.25])))
    assert text.tolist() == [True, True, False] and not image.any()


def test_null_is_zeros_and_the_empty_prompt():
    conditioner, condition = conditioned(3)
    null = conditioner.null(condition)
    assert isinstance(null, Condition)
    assert null.image.shape == condition.image.shape and null.text.shape == condition.text.shape
    assert not null.image.any() and (null.text == 0.5).all()


def test_refusals():
    for p in (-0.1, 0.34, float("nan")):
        with pytest.raises(UserError):
            Conditioner(Lengths(), p=p)
    with pytest.raises(UserError, match="2 images but 1 prompts"):
        Conditioner(Lengths()).encode(torch.zeros(2, 4, 1, 1), ["a"])
