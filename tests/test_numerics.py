"""Numbers that are not finite never reach the weights; after a few of them the run stops and says why."""

import json

import pytest
import torch
from models import batch_of, module_of
from processes import QUIET, SMALL, run

from ip2p_lightning import checkpoint
from ip2p_lightning.errors import NonFiniteError
from ip2p_lightning.runs import read_status

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
            assert all(p.grad is None for p in parameters) and module._skip and module.skipped == 1
        else:
            with pytest.raises(NonFiniteError, match=r"photo 'brighten it' t=0\.25 loss=1"):
                module.configure_gradient_clipping(optimizer, 1.0)


def test_a_finite_gradient_is_clipped_and_kept():
    module = module_of("model=tiny")
    module.loss(batch_of(2), module.draws(batch_of(2), torch.Generator().manual_seed(0))).mean().mul(1e4).backward()
    module.configure_gradient_clipping(torch.optim.AdamW(module.parameters()), 1.0)
    norm = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm()
    assert not module._skip and norm == pytest.approx(1.0, rel=1e-4) and module.grad_norm > 10
