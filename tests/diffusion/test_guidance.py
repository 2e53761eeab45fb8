"""Guidance as algebra: every branch that can cancel does, and is not computed."""

import pytest
import torch

from ip2p_lightning.diffusion.guidance import GuidedNet, branches, edit_guidance
from ip2p_lightning.networks.conditioning import Condition


def outs():
    return torch.randn(3, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).unbind(0)


CASES = {
    (1, 1): ("full",),
    (0, 1): ("image",),
    (0, 0): ("null",),
    (7.5, 1): ("full", "image"),
    (1.5, 1.5): ("full", "null"),
    (0, 1.5): ("image", "null"),
    (7.5, 1.5): ("full", "image", "null"),
    (0.5, 0.9): ("full", "image", "null"),
    (1, 1.5): ("full", "image", "null"),
}


@pytest.mark.parametrize(("scales", "needed"), CASES.items())
def test_only_what_does_not_cancel_is_needed_and_gives_equation_3(scales, needed):
    (full, image, null), (s_t, s_i) = outs(), scales
    assert branches(s_t, s_i) == needed
    given = [out if name in needed else None for name, out in zip(("full", "image", "null"), outs(), strict=True)]
    expected = null + s_i * (image - null) + s_t * (full - image)
    torch.testing.assert_close(edit_guidance(*given, s_t, s_i), expected, rtol=1e-5, atol=1e-5)


def test_at_scales_one_it_is_the_full_branch_and_elsewhere_a_missing_branch_is_an_error():
    full, image, null = outs()
    assert torch.equal(edit_guidance(full, None, None, 1, 1), full)
    torch.testing.assert_close(edit_guidance(full, image, null, 1, 1), full)
    with pytest.raises(ValueError, match="null"):
        edit_guidance(full, image, None, 7.5, 1.5)


@pytest.mark.parametrize("scales", CASES)
def test_the_net_is_asked_once_in_the_pipelines_order(scales):
    condition = Condition(torch.full((2, 4, 3, 3), 10.0), torch.full((2, 5, 6), 1.0))
    null = Condition(torch.zeros(2, 4, 3, 3), torch.full((2, 5, 6), 0.25))
    calls = []

    def net(z_t, t, c):
        assert len(z_t) == len(t) == len(c.image) == len(c.text)
        calls.append([(i.mean().item(), x.mean().item()) for i, x in zip(c.image, c.text, strict=True)])
        return z_t * (c.image.mean((1, 2, 3)) + 2 * c.text.mean((1, 2)) + t).view(-1, 1, 1, 1)

    z, t = outs()[0], torch.tensor([3.0, 4.0])
    found = GuidedNet(net, null, *scales)(z, t, condition)
    shown = {"full": (10.0, 1.0), "image": (10.0, 0.25), "null": (0.0, 0.25)}
    assert calls == [[shown[name] for name in branches(*scales) for _ in range(2)]]
    alone = [net(z, t, shown) for shown in (condition, condition._replace(text=null.text), null)]
    torch.testing.assert_close(found, edit_guidance(*alone, *scales), rtol=1e-5, atol=1e-4)


def test_what_the_branches_are_shown_is_stacked_once():
    shown = []
    null, one, other = (Condition(torch.full((2, 1, 1, 1), x), torch.full((2, 1, 1), x)) for x in (0.0, 1.0, 2.0))
    guided = GuidedNet(lambda z, t, c: shown.append(c) or z, null, 5, 2)
    for condition in (one, one, other, one):
        guided(torch.zeros(2, 1, 1, 1), torch.zeros(2), condition)
    assert shown[0] is shown[1] and [c.text[0].item() for c in shown] == [1, 1, 2, 1]
