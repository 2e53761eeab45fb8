"""What the module computes, held against hand computations and identities."""

import copy
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

from ip2p_lightning.config import build
from ip2p_lightning.errors import UserError
from ip2p_lightning.rng import torch_rng
from ip2p_lightning.training.module import EditDiffusion, LearningRate
from tests.support.models import bare_trainer, batch_of, config_of, module_of, stirred

SIDE = 32  # of an SD checkpoint's images here: 4 x 4 latents


@pytest.fixture(scope="module")
def sd(sd_folder):
    """A fine-tuned SD checkpoint's module."""
    return stirred(module_of("model=local", f"model.path={sd_folder}", "model.drop=0.05", "sampler.steps=3"), 0.01)


@pytest.fixture(scope="module")
def untouched():
    return module_of("model=tiny")


@pytest.fixture
def tiny(untouched):
    return copy.deepcopy(untouched)


def loss_of(module, batch, u=1.0, key=0):
    draws = module.draws(batch, torch_rng(key))
    with torch.no_grad():
        return module.loss(batch, draws._replace(u=torch.full((len(batch.id),), u)))


# -- the loss --------------------------------------------------------------------------------------------------------


def test_a_draw_above_the_borders_drops_nothing(sd, monkeypatch):
    batch = batch_of(3, SIDE)
    without = loss_of(sd, batch, u=1.0)
    assert torch.equal(without, loss_of(sd, batch, u=0.16))
    assert not torch.equal(without, loss_of(sd, batch, u=0.01)) and not torch.equal(without, loss_of(sd, batch, u=0.12))
    monkeypatch.setattr(sd.conditioner, "p", 0.0)
    assert torch.equal(without, loss_of(sd, batch, u=0.01))


@pytest.mark.parametrize("unet", ["sd", "sd_lora"])
@pytest.mark.parametrize("word", ["model.gradient_checkpointing=true", "model.channels_last=true"])
def test_what_saves_memory_or_time_gives_the_same_gradient(sd_folder, word, unet):
    pytest.importorskip("peft" if unet == "sd_lora" else "torch")
    batch, gradients, exact = batch_of(2, SIDE), [], "checkpointing" in word
    for more in ([], [word]):
        module = module_of("model=local", f"model.path={sd_folder}", f"unet={unet}", *more).train()
        module.loss(batch, module.draws(batch, torch_rng(0))).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.requires_grad]))
    bound = 0 if exact else 1e-5 * gradients[0].norm()
    assert (gradients[1] - gradients[0]).norm() <= bound and gradients[0].any()


def test_the_draws_are_those_of_the_run_s_examples_however_they_are_batched(tiny, monkeypatch):
    def drawn(size, step, rank=0, world=1):
        monkeypatch.setattr(EditDiffusion, "global_rank", rank, raising=False)
        monkeypatch.setattr(EditDiffusion, "micro_step", step + 1)
        monkeypatch.setattr(tiny, "_trainer", SimpleNamespace(world_size=world))
        return tiny._keyed_draws(batch_of(size))

    whole = drawn(24, 0)
    assert len(set(whole.noise.sum((1, 2, 3)).tolist())) == len(set(whole.u.tolist())) == 24
    for size, world in ((12, 1), (3, 1), (1, 1), (4, 3), (6, 2)):
        parts = [drawn(size, step, rank, world) for step in range(24 // size // world) for rank in range(world)]
        assert all(map(torch.equal, whole, map(torch.cat, zip(*parts, strict=True))))


def test_one_batch_is_learnt_by_heart(tiny):
    batch, optimizer = batch_of(2), torch.optim.AdamW(tiny.parameters(), lr=3e-3)
    batch = batch._replace(original=(batch.edited + 0.3).clamp(-1, 1))
    draws, losses = tiny.draws(batch, torch_rng(0)), []
    for _ in range(60):
        loss = tiny.loss(batch, draws).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5


# -- balance of the tasks --------------------------------------------------------------------------------------------


def step_of(module, *batches):
    """The losses of a step's micro-batches."""
    losses = [loss_of(module.train(), batch) for batch in batches]
    module._update_identity_error()
    return losses


def test_the_running_identity_error_is_the_mean_of_what_earlier_steps_saw(tiny):
    errors = {"derain": [], "lowlight": []}
    batches = [batch_of(size, task=task, seed=size) for size, task in ((3, "derain"), (2, "lowlight"), (4, "derain"))]
    step_of(tiny, *batches[:2])
    step_of(tiny, batches[2])
    for batch in batches:
        errors[batch.task[0]].append((batch.edited - batch.original).square().mean((1, 2, 3)))
    for task, seen in errors.items():
        wanted = torch.cat(seen).mean().item()
        assert tiny.identity_error[tiny.tasks.index(task)] == pytest.approx(wanted, rel=1e-5)
    assert [tiny.identity_count[tiny.tasks.index(task)] for task in ("derain", "lowlight", "cartoon")] == [7, 2, 0]


def test_a_loss_is_divided_by_the_error_before_its_step_and_by_one_before_the_first(tiny):
    batch = batch_of(3)
    first, again = step_of(tiny, batch, batch)
    (later,) = step_of(tiny, batch)
    tiny.balance_tasks = False
    plain = loss_of(tiny, batch)
    assert torch.equal(first, plain) and torch.equal(again, plain)
    error = (batch.edited - batch.original).square().mean()
    torch.testing.assert_close(later, plain / error)


def test_after_a_hundred_examples_the_mean_forgets_the_oldest(tiny):
    far, place = batch_of(4), tiny.tasks.index("denoise")
    for original in [*[far.original] * 30, -far.edited.sign()]:
        step_of(tiny, far._replace(original=original))
    assert tiny.identity_count[place] == 100
    near, distant = ((far.edited - x).square().mean().item() for x in (far.original, -far.edited.sign()))
    assert tiny.identity_error[place] == pytest.approx(near + 0.04 * (distant - near), rel=1e-4)


def test_evaluation_leaves_the_running_mean_alone(tiny):
    step_of(tiny, batch_of(2))
    before = tiny.identity_error.clone()
    loss_of(tiny.eval(), batch_of(2, seed=5))
    tiny._update_identity_error()
    assert torch.equal(before, tiny.identity_error)


def test_a_poisoned_example_does_not_stay_in_the_running_mean(tiny):
    batch = batch_of(2)
    batch.edited[0] = float("nan")
    assert step_of(tiny, batch)[0].isnan()[0]
    assert torch.isfinite(tiny.identity_error).all() and torch.isfinite(loss_of(tiny, batch_of(2))).all()


# -- averaged weights ------------------------------------------------------------------------------------------------


def raw(module):
    return torch.cat([p.detach().flatten() for p in module._trained()])


def fitted(words, **options):
    """The module of a command line after some steps of a bare Trainer."""
    module = module_of(*words)
    module.unet.register_forward_pre_hook(lambda *_: held.append(any(p.grad is not None for p in module._trained())))
    held: list[bool] = []  # whether there were gradients at each forward pass
    bare_trainer(**options).fit(module, datamodule=build.build_data(config_of(*words)))
    return module, held


def test_gradients_are_not_held_beside_the_next_steps_activations():
    words = ("model=tiny", "task=denoise", "loader.batch_size=1")
    _, held = fitted(words, max_steps=3, accumulate_grad_batches=2)
    assert held == [False, True] * 3


def test_the_average_is_the_one_computed_from_the_weights_of_every_step():
    words, seen = ("model=tiny", "task=denoise", "loader.batch_size=1", "model.ema=0.7"), []
    watch = LambdaCallback(on_train_batch_end=lambda trainer, module, *_: seen.append(raw(module).double()))
    module, _ = fitted(words, max_steps=30, callbacks=[watch])
    average = seen[0]  # the first update takes the weights as they are
    for n, weights in enumerate(seen[1:], start=1):
        average = average + (1 - min(0.7, (1 + n) / (10 + n))) * (weights - average)
    with module.averaged():
        assert (raw(module).double() - average).abs().max() <= 1e-6
    assert module.ema.optimization_step == 30 and not torch.equal(seen[-1].float(), average.float())


def test_the_raw_weights_are_back_after_the_averaged_ones(tiny):
    before = raw(tiny).clone()
    with tiny.averaged():
        assert torch.equal(raw(tiny), before)  # without a step there is no average yet
    tiny.ema.step(tiny._trained())
    before = raw(stirred(tiny)).clone()
    with pytest.raises(RuntimeError), tiny.averaged():
        assert not torch.equal(raw(tiny), before)
        raise RuntimeError
    assert torch.equal(raw(tiny), before)


# -- edits -----------------------------------------------------------------------------------------------------------


def test_an_untrained_bridge_is_the_identity(tiny):
    original = batch_of(3, 32).original
    assert (tiny.eval().edit(original, ["remove the noise"] * 3, [1, 2, 3]) - original).abs().max() == 0


@pytest.mark.parametrize("which", ["tiny", "sd"])
def test_an_edit_does_not_depend_on_its_neighbours(which, request):
    module = request.getfixturevalue(which).eval()
    module = stirred(module) if which == "tiny" else module
    original, prompts = batch_of(3, SIDE).original, ["remove the noise", "brighten the photo", "turn it into a cartoon"]
    together = module.edit(original, prompts, [7, 8, 9])
    alone = torch.cat([module.edit(original[i : i + 1], prompts[i : i + 1], [7 + i]) for i in range(3)])
    assert (together - alone).abs().max() <= 1e-4 and (together - original).abs().max() > 1e-2


def test_a_seed_decides_the_edit(sd):
    original = batch_of(1, SIDE).original
    a, b, c = (sd.edit(original, ["make it so"], [seed]) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_frozen_parts_are_in_no_state(sd, tiny):
    for module, parts in ((sd, {"unet"}), (tiny, {"unet", "text"})):
        names = set(module.state_dict())
        assert {n for n in names if "." not in n} == {"identity_error", "identity_count"}
        assert {n.split(".")[0] for n in names if "." in n} == parts
    assert not any("vae" in n or "text" in n for n, _ in sd.named_parameters())
    assert len(sd.ema.shadow_params) == len(list(sd.unet.parameters()))


def test_parts_that_do_not_fit_and_an_impossible_decay_are_refused(tiny):
    parts = {k: getattr(tiny, k) for k in ("autoencoder", "text_encoder", "objective", "sampler")}
    unet = copy.deepcopy(tiny.unet)
    unet.register_to_config(in_channels=8)
    with pytest.raises(UserError, match="takes 8 channels"):
        EditDiffusion(unet, **parts)
    unet.register_to_config(in_channels=24, cross_attention_dim=32)
    with pytest.raises(UserError, match="width 32"):
        EditDiffusion(unet, **parts)

    for ema in (1.0, -0.1):
        with pytest.raises(UserError, match=r"model\.ema"):
            module_of("model=tiny", f"model.ema={ema}")


def test_the_learning_rate_warms_up_and_falls():
    for shape, factors in (("constant", {0: 0.2, 4: 1.0}), ("cosine", {3: 0.8, 4: 1.0, 12: 0.5, 20: 0})):
        found = {step: LearningRate(shape, warmup=4).factor(step, 20) for step in factors}
        assert found == pytest.approx(factors, abs=1e-12)
