"""The bridge: its path, its loss, and its sampler."""

import pytest
import torch

from ip2p_lightning.diffusion.bridge import BridgeObjective
from ip2p_lightning.diffusion.samplers import BridgeSampler, DiffusionSampler
from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.conditioning import Condition

CONDITION = Condition(torch.ones(3, 4, 2, 2), torch.ones(3, 5, 6))
NULL = Condition(torch.zeros(3, 4, 2, 2), torch.zeros(3, 5, 6))


def latents(n=3):
    return torch.randn(n, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))


def seeds(n=3):
    return [torch.Generator().manual_seed(i) for i in range(n)]


def test_times_start_at_zero_for_the_asked_share_and_are_uniform_otherwise():
    t = BridgeObjective(start_share=0.3).draw(50_000, torch.Generator().manual_seed(0))
    share = (t == 0).double().mean()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 50_000) ** 0.5
    rest = t[t > 0]
    assert rest.max() < 1
    counts = torch.histc(rest, 20, 0, 1).double()
    assert ((counts - len(rest) / 20) ** 2 / (len(rest) / 20)).sum() < 43.8  # chi^2, 19 degrees of freedom, 0.1 %


def test_the_path_meets_both_ends_exactly_whatever_the_noise():
    z_0, z_1, noise = latents()
    for t, end in ((torch.zeros(3), z_0), (torch.ones(3), z_1)):
        assert torch.equal(BridgeObjective(sigma=2.0).between(z_0, z_1, t, noise), end)


def test_the_paths_spread_is_that_of_a_brownian_bridge():
    noise = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    t = torch.full((20_000,), 0.25)
    z_t = BridgeObjective(sigma=0.4).between(torch.zeros_like(noise), torch.ones_like(noise), t, noise)
    assert z_t.mean().item() == pytest.approx(0.25, abs=0.01)
    assert z_t.std().item() == pytest.approx(0.4 * (0.25 * 0.75) ** 0.5, rel=0.03)


@pytest.mark.parametrize("kind", ["mse", "l1", "huber"])
def test_loss_is_zero_for_the_difference_and_its_norm_for_zero(kind):
    z_0, z_1, noise = latents()
    t, bridge = torch.tensor([0.0, 0.3, 0.9]), BridgeObjective(kind=kind)
    assert bridge.loss(lambda *_: z_1 - z_0, z_1, None, t, noise, z_0).abs().max() == 0
    d = (z_1 - z_0).abs()
    norm = {"mse": d**2, "l1": d, "huber": torch.where(d < 1, d**2 / 2, d - 0.5)}[kind].mean((1, 2, 3))
    torch.testing.assert_close(bridge.loss(lambda z, *_: z * 0, z_1, None, t, noise, z_0), norm)


def test_the_net_sees_the_path_and_the_scaled_time():
    (z_0, z_1, noise), t, seen = latents(), torch.tensor([0.0, 0.5, 0.999]), []
    BridgeObjective().loss(lambda z_t, time, _: seen.extend((z_t, time)) or z_t, z_1, None, t, noise, z_0)
    z_t, time = seen
    assert torch.equal(z_t[0], z_0[0])
    assert time.tolist() == pytest.approx([0, 500, 999]) and time.max() < 1000


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_zero_net_is_the_identity_edit_and_the_true_one_finds_the_edit(steps, stochastic):
    z_0, z_1, _ = latents()
    sampler = BridgeSampler(steps, stochastic=stochastic)
    args = (BridgeObjective(), CONDITION, NULL, z_0, seeds())
    assert torch.equal(sampler.sample(lambda z, *_: torch.zeros_like(z), *args), z_0)
    torch.testing.assert_close(sampler.sample(lambda *_: z_1 - z_0, *args), z_1)


def test_without_noise_it_is_the_walk_written_out():
    z_0, times = latents()[0], []

    def net(z, t, condition):
        times.append(t[0].item())
        return z.sin() + t.view(-1, 1, 1, 1) / 1000

    found = BridgeSampler(2).sample(net, BridgeObjective(), CONDITION, NULL, z_0, seeds())
    half = z_0 + 0.5 * z_0.sin()
    torch.testing.assert_close(found, z_0 + half.sin() + 0.5)
    assert times == [0, 500]


def test_stochastic_steps_depend_on_the_own_generator_alone():
    z_0 = latents()[0]

    def edit(i):
        condition = Condition(CONDITION.image[i], CONDITION.text[i])
        sampler = BridgeSampler(3, stochastic=True)
        return sampler.sample(lambda z, *_: z.sin(), BridgeObjective(), condition, condition, z_0[i], seeds()[i])

    assert torch.equal(edit(slice(None)), torch.cat([edit(slice(i, i + 1)) for i in range(3)]))


def test_text_guidance_keeps_the_image_and_costs_a_branch():
    z_0, sizes = latents()[0], []

    def net(z, t, condition):
        sizes.append(len(z))
        assert (condition.image == 1).all()  # never the null image
        return condition.text[:, :1, :1, None].mean((1, 2, 3)).view(-1, 1, 1, 1).expand_as(z)

    found = BridgeSampler(1, text_scale=3.0).sample(net, BridgeObjective(), CONDITION, NULL, z_0, seeds())
    torch.testing.assert_close(found, z_0 + 3)
    BridgeSampler(1).sample(net, BridgeObjective(), CONDITION, NULL, z_0, seeds())
    assert sizes == [6, 3]


def test_a_sampler_from_noise_refuses_it():
    with pytest.raises(UserError, match="starts from noise"):
        DiffusionSampler().sample(None, BridgeObjective(), CONDITION, NULL, latents()[0], seeds())
