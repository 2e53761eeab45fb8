"""The denoising objective: its draws, its weights and what it refuses."""

import pytest
import torch

from ip2p_lightning.diffusion.bridge import BridgeObjective
from ip2p_lightning.diffusion.noise_schedule import Schedule
from ip2p_lightning.diffusion.objective import DiffusionObjective


def latents(n, *shape):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def test_timesteps_are_uniform_and_depend_on_the_generator_alone():
    t, again = (DiffusionObjective().draw(100_000, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(t, again)
    assert t.dtype == torch.int64 and t.min() == 0 and t.max() == 999
    counts = torch.bincount(t // 50, minlength=20).double()
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi^2 with 19 degrees of freedom: 0.1 % in the tail


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_loss_of_the_right_answer_is_zero_and_of_zero_is_the_targets_power(prediction):
    objective, (z, noise) = DiffusionObjective(prediction), latents(2, 6, 4, 3, 3)
    t = torch.tensor([0, 100, 400, 600, 900, 999])
    target = objective.target(z, noise, t)
    assert objective.loss(lambda *_: target, z, None, t, noise).abs().max() == 0
    power = objective.loss(lambda z_t, *_: torch.zeros_like(z_t), z, None, t, noise)
    torch.testing.assert_close(power, target.square().mean((1, 2, 3)))


def test_samples_do_not_mix():
    (z, noise), t = latents(2, 4, 4, 3, 3), torch.tensor([3, 5, 700, 900])

    def loss(i):
        return DiffusionObjective().loss(lambda z_t, *_: z_t.tanh(), z[i], None, t[i], noise[i])

    torch.testing.assert_close(loss(slice(None)), torch.cat([loss(slice(i, i + 1)) for i in range(4)]))


def test_loss_is_float32_for_a_half_precision_net():
    z, noise = latents(2, 2, 4, 3, 3)
    assert DiffusionObjective().loss(lambda z, *_: z.bfloat16(), z, None, torch.tensor([1, 2]), noise).dtype == z.dtype


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_is_one_clipped_weight_on_the_error_of_the_clean_latents(prediction):
    """Whatever is predicted, the weighted loss must be min(SNR, gamma) times the squared error of z_0."""
    objective = DiffusionObjective(prediction, snr_gamma=5.0)
    z, noise = latents(2, 5, 4, 3, 3).double()
    t = torch.tensor([5, 100, 300, 700, 990])
    a = objective.schedule.alpha_bar(t).double()
    guess = latents(5, 4, 3, 3).double() * 0.3
    z_t = a.sqrt() * z + (1 - a).sqrt() * noise
    if prediction == "epsilon":
        z_0 = (z_t - (1 - a).sqrt() * guess) / a.sqrt()
    else:
        z_0 = a.sqrt() * z_t - (1 - a).sqrt() * guess
    expected = (a / (1 - a)).flatten().clamp(max=5.0) * (z_0 - z).square().mean((1, 2, 3))
    found = objective.loss(lambda *_: guess, z, None, t, noise).double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_min_snr_is_off_by_default_and_finite_at_zero_snr():
    t = torch.tensor([0, 999])
    assert DiffusionObjective().weight(t).tolist() == [1, 1]
    weights = DiffusionObjective("v_prediction", zero_terminal_snr=True, snr_gamma=5.0).weight(t)
    assert weights.isfinite().all() and weights[1] == 0


def test_zero_terminal_snr_ends_in_pure_noise():
    schedule = Schedule(zero_terminal_snr=True)
    assert schedule.alphas_cumprod[-1] == 0
    torch.testing.assert_close(schedule.alphas_cumprod[0], Schedule().alphas_cumprod[0])
    z, noise = latents(2, 1, 4, 3, 3)
    assert torch.equal(schedule.add_noise(z, noise, torch.tensor([999])), noise)


def test_stable_diffusions_schedule():
    a = Schedule().alphas_cumprod
    assert len(a) == 1000 and a[0].item() == pytest.approx(1 - 0.00085, abs=1e-6)
    assert a[-1].item() == pytest.approx(0.00466, abs=1e-4)  # its well-known terminal signal


def test_quartiles():
    assert BridgeObjective().quartile(torch.tensor([0.0, 0.24, 0.25, 0.6, 0.99])).tolist() == [0, 0, 1, 2, 3]
    t = torch.tensor([0, 249, 250, 500, 749, 750, 999])
    assert DiffusionObjective().quartile(t).tolist() == [0, 0, 1, 2, 2, 3, 3]
