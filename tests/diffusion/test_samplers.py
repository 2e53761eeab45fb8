"""The samplers from noise: exactness on a solvable problem, generators, bounds."""

import warnings
from math import inf, nan

import pytest
import torch

from ip2p_lightning.diffusion.bridge import BridgeObjective
from ip2p_lightning.diffusion.objective import DiffusionObjective
from ip2p_lightning.diffusion.samplers import BridgeSampler, DiffusionSampler
from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.conditioning import Condition

SOLVERS = ["ddim", "dpm++", "unipc", "euler-a"]


def seeds(n):
    return [torch.Generator().manual_seed(i) for i in range(n)]


def condition(n):
    g = torch.Generator().manual_seed(9)
    return Condition(torch.randn(n, 4, 3, 3, generator=g), torch.randn(n, 5, 6, generator=g))


def knows(z_0, objective):
    """The net that knows the answer: it puts out the very eps (or v) that leads from z_t to z_0."""

    def net(z_t, t, _):
        bars, low = objective.schedule.alphas_cumprod.double(), t.long()  # t may lie between two steps
        a = torch.lerp(bars[low], bars[(low + 1).clamp(max=999)], t.double() - low).view(-1, 1, 1, 1)
        eps = (z_t.double() - a.sqrt() * z_0) / (1 - a).sqrt()
        out = eps if objective.prediction == "epsilon" else a.sqrt() * eps - (1 - a).sqrt() * z_0
        return out.to(z_t.dtype)

    return net


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "objective", [DiffusionObjective(), DiffusionObjective("v_prediction", zero_terminal_snr=True)], ids=["eps", "v"]
)
def test_every_solver_reaches_what_a_perfect_net_knows(solver, objective):
    """Only right if the input's scaling, the prediction type and the time handed to the net all agree."""
    c = condition(2)
    z_0 = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(4)) * 0.5
    sampler = DiffusionSampler(solver, steps=8, text_scale=1, image_scale=1)
    found = sampler.sample(knows(z_0, objective), objective, c, c, z_0, seeds(2))
    left = 0.03 * 4 if solver == "ddim" else 1e-5  # Stable Diffusion's DDIM ends at t = 0, where 3 % of noise remains
    assert (found - z_0).abs().max() < left


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_batch_gives_what_one_by_one_gives(solver):
    c = condition(3)

    def net(z_t, t, shown):
        return (z_t + shown.image).sin() + shown.text.mean((1, 2)).view(-1, 1, 1, 1)

    def edit(i):
        part = Condition(c.image[i], c.text[i])
        null = Condition(torch.zeros_like(part.image), torch.zeros_like(part.text))
        sampler = DiffusionSampler(solver, steps=4)
        return sampler.sample(net, DiffusionObjective(), part, null, part.image, seeds(3)[i])

    torch.testing.assert_close(edit(slice(None)), torch.cat([edit(slice(i, i + 1)) for i in range(3)]))


@pytest.mark.parametrize("solver", SOLVERS)
def test_progress_and_the_number_of_net_calls(solver):
    c, calls, told = condition(1), [], []
    args = (lambda z_t, t, _: calls.append(t[0].item()) or z_t, DiffusionObjective(), c, c, c.image, seeds(1))
    DiffusionSampler(solver, 5).sample(*args, progress=lambda done, total: told.append((done, total)))
    assert len(calls) == 5 and told == [(i, 5) for i in range(1, 6)]
    assert calls == sorted(calls, reverse=True)


def test_spacing():
    def first(objective, **arguments):
        scheduler = DiffusionSampler("ddim", 20, **arguments).build(objective)
        scheduler.set_timesteps(20)
        return scheduler.timesteps[0].item()

    assert first(DiffusionObjective()) == 951  # Stable Diffusion: leading, offset 1
    assert first(DiffusionObjective("v_prediction", zero_terminal_snr=True)) == 999
    assert first(DiffusionObjective(), spacing="trailing") == 999
    assert first(DiffusionObjective(), checkpoint={"steps_offset": 0}) == 950


def test_betas_are_the_objectives_even_with_a_checkpoint():
    sampler = DiffusionSampler(checkpoint={"beta_start": 0.1, "prediction_type": "sample", "_class_name": "Other"})
    scheduler = sampler.build(DiffusionObjective("v_prediction"))
    assert torch.equal(scheduler.alphas_cumprod, DiffusionObjective().schedule.alphas_cumprod)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.clip_sample is False  # latents are never clipped


@pytest.mark.parametrize("solver", SOLVERS)
def test_more_steps_than_the_schedule_has_are_refused_before_sampling(solver):
    with pytest.raises(UserError, match=r"sampler\.steps=21: .* give at most 20"):
        DiffusionSampler(solver, 21).check(DiffusionObjective(timesteps=20))
    DiffusionSampler(solver, 20).check(DiffusionObjective(timesteps=20))


def test_bridge_steps_without_the_noise_of_training_are_told():
    with pytest.warns(UserWarning, match=r"sampler\.steps=2: .*sampler\.stochastic=true adds it"):
        BridgeSampler(2).check(BridgeObjective(sigma=0.05))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BridgeSampler(2).check(BridgeObjective(sigma=0))
        BridgeSampler(1).check(BridgeObjective())
        BridgeSampler(2, stochastic=True).check(BridgeObjective())


def test_as_many_generators_as_images():
    c = condition(2)
    with pytest.raises(UserError, match="2 images, 1 generators"):
        DiffusionSampler().sample(None, DiffusionObjective(), c, c, c.image, seeds(1))


BAD = {
    DiffusionSampler: {
        "steps": [0],
        "scheduler": ["pndm"],
        "text_scale": [nan],
        "image_scale": [inf],
        "spacing": ["x"],
    },
    BridgeSampler: {"steps": [0], "text_scale": [inf]},
    DiffusionObjective: {"zero_terminal_snr": [True], "prediction": ["sample"], "snr_gamma": [0.0], "timesteps": [1]}
    | {"beta_start": [0.5], "beta_end": [nan]},
    BridgeObjective: {"sigma": [-1.0, nan], "start_share": [1.1], "kind": ["lpips"]},
}


@pytest.mark.parametrize("kind", BAD)
def test_impossible_settings_are_refused(kind):
    for name, values in BAD[kind].items():
        for value in values:
            with pytest.raises(UserError):
                kind(**{name: value})
