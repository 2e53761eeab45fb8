"""Numbers that are not finite never reach the weights; after a few of them the run stops and says why."""

import re

import numpy as np
import pytest
import torch

from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.errors import DamagedError, NonFiniteError, UserError
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.runs.metrics_log import last_metrics
from tests.support.models import batch_of, module_of
from tests.support.pieces import write_pairs
from tests.support.processes import QUIET, SMALL, run
from tests.support.trained import logged

WORDS = [*SMALL, *QUIET, "model=tiny", "save_every=1", "log_every=1", "loader.batch_size=2"]
WORDS += ["trainer.accumulate_grad_batches=2", "trainer.max_steps=3"]


def train(folder, *more):
    return run([*WORDS, *more, f"hydra.run.dir={folder}"], folder.parent / "log")


def weights(folder, step):
    content = checkpoint.load(folder / checkpoint.FOLDER / f"step-{step:06d}.ckpt")
    return {**content["state_dict"], **{f"ema.{k}": v for k, v in content["ema"]["weights"].items()}}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def trained(values):
    return {k: v for k, v in values.items() if not k.startswith("identity_")}


def finite(values):
    return all(torch.isfinite(v).all() for v in values.values())


def test_a_poisoned_step_is_skipped_and_one_too_many_stops_the_run(tmp_path):
    folder, words = tmp_path / "run", ("max_skips=2", "trainer.max_steps=5", "keep=5")
    code, said = train(folder, *words, "fault=inf@step=0;nan@step=2;nan@step=3")
    line = said.strip().splitlines()[-1]
    assert code == 4 and "Traceback" not in said and "after 3 steps" in line, said
    assert line.startswith("error: step 3: gradient norm nan") and line.count("loss=nan") == 4
    assert line.count(" t=") == 4 and "lower optimizer.lr" in line
    status = read_status(folder)
    assert (status["state"], status["exit_code"]) == ("failed", 4) and "gradient norm nan" in status["reason"]
    first, second, third = (trained(weights(folder, step)) for step in (1, 2, 3))
    assert equal(second, third) and not equal(first, second)  # a skip moves neither the weights nor their average
    assert all(map(finite, (first, second, third)))
    assert train(folder, *words, "fault=nan@step=3")[0] == 4  # skips are counted over restarts
    assert train(folder, *words)[0] == 0
    assert logged(folder, "train/skipped_steps") == {1: 1, 2: 1, 3: 2, 4: 2, 5: 2} and finite(weights(folder, 5))


@pytest.mark.parametrize(("rate", "reason"), [("1e12", "lower optimizer.lr"), ("1e38", "weights are not finite")])
def test_a_learning_rate_that_explodes_stops_with_finite_checkpoints(tmp_path, rate, reason):
    folder = tmp_path / "run"
    code, said = train(folder, f"optimizer.lr={rate}", "trainer.max_steps=40", "schedule=constant")
    assert code == read_status(folder)["exit_code"] == 4 and reason in said.strip().splitlines()[-1], said
    assert all(finite(checkpoint.load(path)["state_dict"]) for path in checkpoint.checkpoints(folder))


def test_poisoned_latents_stop_the_run_and_are_named(sd_folder, tmp_path):
    """What a cache holds of one pair is NaN, with a checksum that fits: no read can notice it."""
    root = write_pairs(tmp_path / "pairs", 4)
    words = ["model=local", f"model.path={sd_folder}", "data=folder", f"data.root={root}", "task=own"]
    words += ["task.name=sepia", "task.prompts.prompts=[make it sepia]", "loader.crop=center", "loader.resize=null"]
    words += ["cache=disk", f"cache_dir={tmp_path}/cache", "max_skips=0", "task.flip=0", "trainer.max_steps=9"]
    assert train(tmp_path / "filling", *words)[0] == 0
    space = Space.opened(next((tmp_path / "cache").glob("*/space.json")).parent)
    key = sorted(space.index.keys())[0]
    space.put([(key, np.full(space.payload // 4, np.nan, np.float32).tobytes())])
    code, said = train(tmp_path / "run", *words)
    assert code == 4 and re.search(r"examples: .*000\d 'make it sepia' .*loss=nan", said.splitlines()[-1]), said
    newest = checkpoint.checkpoints(tmp_path / "run")
    assert not newest or finite(weights(tmp_path / "run", checkpoint.step_of(newest[0])))


def test_what_an_optimizer_refuses_is_one_line():
    module = module_of("optimizer=timm", "optimizer.opt=rmsprop", "optimizer.lr=0.1")
    module.optimizer.keywords["momentum"] = -1
    with pytest.raises(UserError, match="optimizer: Invalid momentum value"):
        module.configure_optimizers()


def test_half_the_bits_train_alike(tmp_path):
    words = ["trainer.max_steps=6", "save_every=99", "log_every=6", "trainer.accumulate_grad_batches=1"]
    found = []
    for name, kind in (("full", "32-true"), ("half", "bf16-mixed")):
        code, said = train(tmp_path / name, *words, f"trainer.precision={kind}")
        assert code == 0, said
        found.append(last_metrics(tmp_path / name)["train/loss"])
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_an_infinite_gradient_is_thrown_away_whole():
    module = module_of("model=tiny", "max_skips=1")
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    for count in (1, 2):
        module._window.append((["photo"], ["brighten it"], torch.tensor([0.25]), torch.tensor([1.0])))
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        parameters[3].grad.flatten()[0] = torch.inf
        if count == 1:
            module.configure_gradient_clipping(optimizer, 1.0)
            assert all(p.grad is None for p in parameters) and module._skip and module.guard.skipped == 1
        else:
            with pytest.raises(NonFiniteError, match=r"photo 'brighten it' t=0\.25 loss=1"):
                module.configure_gradient_clipping(optimizer, 1.0)


def test_a_finite_gradient_is_clipped_and_kept():
    module = module_of("model=tiny")
    module.loss(batch_of(2), module.draws(batch_of(2), torch.Generator().manual_seed(0))).mean().mul(1e4).backward()
    module.configure_gradient_clipping(torch.optim.AdamW(module.parameters()), 1.0)
    norm = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm()
    assert not module._skip and norm == pytest.approx(1.0, rel=1e-4) and module.grad_norm > 10


def stepping(monkeypatch, *words):
    """A module whose verdicts come a step late, as on a GPU, and what takes a step with a gradient."""
    monkeypatch.setattr("ip2p_lightning.training.base_module.can_mask", lambda optimizer, norm: True)
    module = module_of("model=tiny", *words)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def whole_step(*_):
        module.configure_gradient_clipping(optimizer, 1.0)
        optimizer.step()

    monkeypatch.setattr("lightning.pytorch.LightningModule.optimizer_step", whole_step)

    def step(name, gradient):
        module._window.append(([name], ["brighten it"], torch.tensor([0.25]), torch.tensor([gradient])))
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, gradient)
        module.optimizer_step()

    return module, step


def test_a_verdict_that_comes_a_step_late_names_the_step_it_is_about(monkeypatch):
    _, step = stepping(monkeypatch, "max_skips=0")
    step("good", 1.0), step("bad", torch.nan)
    with pytest.raises(NonFiniteError, match=r"gradient norm nan after 1 steps .* examples: bad 'brighten it' .*nan;"):
        step("innocent", 1.0)


def test_the_average_does_not_move_on_a_step_whose_verdict_comes_late(monkeypatch):
    """The bad steps first, in the middle and last: weights, their average and its ramp are those without them."""
    saved = []
    for gradients in ([1.0, 2.0, 3.0], [torch.nan, 1.0, torch.inf, 2.0, 3.0, torch.nan]):
        torch.manual_seed(0)
        module, step = stepping(monkeypatch)
        for gradient in gradients:
            step("photo", gradient)
        content = {"state_dict": {}}
        module.on_save_checkpoint(content)
        saved.append(content)
    plain, skipping = saved
    assert equal(plain["ema"]["weights"], skipping["ema"]["weights"])
    assert [content["ema"]["step"] for content in saved] == [3, 3]
    assert [content["skipped"] for content in saved] == [0, 3]


def test_the_average_is_restored_by_name():
    module = module_of("model=tiny")
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    weights = {name: torch.full_like(module.get_parameter(name), i) for i, name in enumerate(names)}
    module.on_load_checkpoint({"ema": {"step": 5, "weights": dict(reversed(weights.items()))}})
    assert equal(dict(zip(names, module.ema.shadow_params, strict=True)), weights)
    with pytest.raises(DamagedError, match=names[3]):
        module.on_load_checkpoint({"ema": {"step": 5, "weights": {n: weights[n] for n in names if n != names[3]}}})
