"""Numbers that are not finite never reach the weights; after a few of them the run stops and says why."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.errors import NonFiniteError, UserError
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_status
from tests.support.drilling import average_error
from tests.support.models import batch_of, module_of
from tests.support.processes import QUIET, SMALL, run

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


def test_a_poisoned_step_is_skipped_and_the_run_goes_on(tmp_path):
    folder = tmp_path / "run"
    code, said = train(folder, "fault=nan@step=1", "keep=3")
    assert code == 0, said
    assert equal(trained(weights(folder, 1)), trained(weights(folder, 2)))  # neither raw nor averaged moved
    assert not equal(trained(weights(folder, 2)), trained(weights(folder, 3))) and finite(weights(folder, 3))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/skipped_steps"] for line in lines] == [0, 1, 1]


def test_too_many_of_them_stop_the_run_and_name_the_examples(tmp_path):
    folder = tmp_path / "run"
    code, said = train(folder, "fault=nan@step=1;nan@step=2", "max_skips=1")
    assert code == 4 and "Traceback" not in said
    line = said.strip().splitlines()[-1]
    assert line.startswith("error: step 2: gradient norm nan") and line.count("loss=nan") == 4
    assert line.count(" t=") == 4 and "lower optimizer.lr" in line
    status = read_status(folder)
    assert (status["state"], status["exit_code"]) == ("failed", 4) and "gradient norm nan" in status["reason"]
    newest = checkpoint.checkpoints(folder)[0]
    assert not checkpoint.damage(newest) and finite(weights(folder, checkpoint.step_of(newest)))
    assert equal(trained(weights(folder, 1)), trained(weights(folder, 2)))
    assert train(folder, "max_skips=1")[0] == 0  # the same command without the fault


def test_skips_are_counted_over_restarts(tmp_path):
    folder = tmp_path / "run"
    train(folder, "fault=nan@step=0;kill@step=2", "max_skips=1")
    assert train(folder, "fault=nan@step=2", "max_skips=1")[0] == 4


def test_a_learning_rate_that_explodes_stops_with_finite_checkpoints(tmp_path):
    folder = tmp_path / "run"
    code, said = train(
        folder, "optimizer.lr=1e12", "trainer.max_steps=40", "schedule=constant", "+trainer.detect_anomaly=false"
    )
    assert code == 4 and "lower optimizer.lr" in said, said
    assert finite(weights(folder, checkpoint.step_of(checkpoint.checkpoints(folder)[0])))


def test_exactly_as_many_are_skipped_as_may_be(tmp_path):
    faults = ";".join(f"{kind}@step={step}" for step, kind in enumerate(["nan", "inf", "nan", "inf"]))
    folder = tmp_path / "run"
    code, said = train(folder, f"fault={faults}", "max_skips=3", "trainer.max_steps=9", "keep=9")
    assert code == 4 and "step 3: gradient norm" in said and "after 4 steps" in said, said
    kept = [weights(folder, step) for step in (1, 2, 3)]
    assert equal(*map(trained, kept[:2])) and equal(*map(trained, kept[1:])) and finite(kept[2])


def test_poisoned_latents_stop_the_run_and_are_named(sd_folder, tmp_path):
    """What a cache holds of one pair is NaN, with a checksum that fits: no read can notice it."""
    for i, side in ((i, side) for i in range(4) for side in ("input", "target")):
        path = tmp_path / "pairs" / side / f"photo{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    words = ["model=local", f"model.path={sd_folder}", "data=folder", f"data.root={tmp_path}/pairs", "task=own"]
    words += ["task.name=sepia", "task.prompts.prompts=[make it sepia]", "loader.crop=center", "loader.resize=null"]
    words += ["cache=disk", f"cache_dir={tmp_path}/cache", "max_skips=0", "task.flip=0", "trainer.max_steps=9"]
    assert train(tmp_path / "filling", *words)[0] == 0
    space = Space.opened(next((tmp_path / "cache").glob("*/space.json")).parent)
    key = sorted(space.index.keys())[0]
    space.put([(key, np.full(space.payload // 4, np.nan, np.float32).tobytes())])
    code, said = train(tmp_path / "run", *words)
    assert code == 4 and said.count("loss=nan") >= 1 and "photo" in said.splitlines()[-1], said
    newest = checkpoint.checkpoints(tmp_path / "run")
    assert not newest or finite(weights(tmp_path / "run", checkpoint.step_of(newest[0])))


def test_the_average_is_what_its_definition_says(tmp_path):
    folder, decay = tmp_path / "run", 0.5
    words = ["keep=99", "trainer.max_steps=12", f"model.ema={decay}", "optimizer.lr=1e-2", "save_every=1"]
    assert train(folder, *words, "fault=nan@step=0")[0] == 0
    first = checkpoint.load(folder / checkpoint.FOLDER / "step-000001.ckpt")
    assert first["ema"]["step"] == 0  # the only step so far was skipped: there is no average yet
    error, moved, count = average_error(folder, decay)
    assert error <= 1e-6 and moved > 1e-3 and count == 11


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    folder = tmp_path / "run"
    code, said = train(folder, "optimizer.lr=1e38", "schedule=constant")
    assert code == 4 and "weights are not finite" in said.strip().splitlines()[-1], said
    assert all(finite(checkpoint.load(path)["state_dict"]) for path in checkpoint.checkpoints(folder))
    assert read_status(folder)["exit_code"] == 4


def test_what_an_optimizer_refuses_is_one_line():
    module = module_of("optimizer=timm", "optimizer.opt=rmsprop", "optimizer.lr=0.1")
    module.optimizer.keywords["momentum"] = -1
    with pytest.raises(UserError, match="optimizer: Invalid momentum value"):
        module.configure_optimizers()


def test_half_the_bits_train_alike(tmp_path):
    words = ["trainer.max_steps=12", "save_every=99", "log_every=12", "trainer.accumulate_grad_batches=1"]
    found = []
    for name, kind in (("full", "32-true"), ("half", "bf16-mixed")):
        code, said = train(tmp_path / name, *words, f"trainer.precision={kind}")
        assert code == 0, said
        found.append(json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])["train/loss"])
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


def test_a_verdict_that_comes_a_step_late_names_the_step_it_is_about(monkeypatch):
    """As on a GPU, where it is read while the step after is under way."""
    monkeypatch.setattr("ip2p_lightning.training.base_module.can_mask", lambda optimizer, norm: True)
    module = module_of("model=tiny", "max_skips=0")
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    monkeypatch.setattr("lightning.pytorch.LightningModule.optimizer_step", lambda *_: optimizer.step())

    def step(name, gradient):
        module._window.append(([name], ["brighten it"], torch.tensor([0.25]), torch.tensor([gradient])))
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, gradient)
        module.configure_gradient_clipping(optimizer, 1.0)
        module.optimizer_step()

    step("good", 1.0), step("bad", torch.nan)
    with pytest.raises(NonFiniteError, match=r"gradient norm nan after 1 steps .* examples: bad 'brighten it' .*nan;"):
        step("innocent", 1.0)
