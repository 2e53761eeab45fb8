"""A checkpoint's scheduler file is the default of the objective and the sampler, and is not contradicted in silence."""

import json
import shutil

import diffusers
import pytest
import torch

from ip2p_lightning.config.build import build
from ip2p_lightning.errors import DamagedError, UserError
from tests.support.configs import config_of
from tests.support.sd_checkpoint import SCHEDULER


def written(folder, **more):
    """A folder with Stable Diffusion 1.5's scheduler file and other settings, and the words to train from it."""
    path = folder / "scheduler" / "scheduler_config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**SCHEDULER, **more}))
    return "model=local", f"model.path={folder}"


def test_stable_diffusions_file_changes_nothing(tmp_path):
    found, without = config_of(*written(tmp_path)), config_of("model=local", "model.path=/x", "objective=eps")
    assert found["objective"] == without["objective"] and found["sampler"] == without["sampler"]


KINDS = [
    {"prediction_type": "v_prediction"},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500, "prediction_type": "epsilon"},
    {"steps_offset": 0, "set_alpha_to_one": True, "clip_sample": True},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "+".join(kind))
def test_objective_and_sampler_are_those_of_the_file(tmp_path, kind):
    config = config_of(*written(tmp_path, **kind))
    objective, stock = build(config["objective"]), diffusers.DDIMScheduler.from_config({**SCHEDULER, **kind})
    ours = build(config["sampler"]).build(objective)
    assert torch.equal(objective.schedule.alphas_cumprod, stock.alphas_cumprod)
    assert objective.prediction == ours.config.prediction_type == stock.config.prediction_type
    for scheduler in (ours, stock):
        scheduler.set_timesteps(20)
    assert torch.equal(ours.timesteps, stock.timesteps) and ours.final_alpha_cumprod == stock.final_alpha_cumprod
    assert ours.config.clip_sample == stock.config.clip_sample


V = KINDS[1]
CONTRADICTIONS = {
    "objective=eps": "objective.prediction=epsilon, but",
    "objective.prediction=epsilon": "was trained with v_prediction (scheduler/scheduler_config.json: prediction_type)",
    "+objective.beta_start=0.001": "objective.beta_start=0.001, but",
    "+objective.timesteps=100": "was trained with 1000",
    "+objective.zero_terminal_snr=false": "rescale_betas_zero_snr",
}


@pytest.mark.parametrize(("word", "told"), CONTRADICTIONS.items())
def test_a_contradiction_is_refused_by_name(tmp_path, word, told):
    with pytest.raises(UserError) as refusal:
        config_of(*written(tmp_path, **V), word)
    assert told in str(refusal.value) and str(tmp_path) in str(refusal.value)


def test_what_agrees_and_what_the_file_does_not_say_may_be_given(tmp_path):
    words = written(tmp_path, **V)
    objective = config_of(*words, "objective=v", "objective.snr_gamma=5")["objective"]
    assert objective["zero_terminal_snr"] is True and objective["snr_gamma"] == 5
    assert config_of(*written(tmp_path), "objective=v")["objective"]["zero_terminal_snr"] is False
    assert config_of(*words, "objective=bridge", "model.drop=0")["objective"]["_target_"].endswith("BridgeObjective")
    shutil.rmtree(tmp_path / "scheduler")
    assert config_of(*words)["objective"] == config_of(*words, "objective=eps")["objective"]


def test_files_that_cannot_be_honoured_are_named(tmp_path):
    for more in ({"trained_betas": [0.1]}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}):
        with pytest.raises(UserError, match="which is not supported"):
            config_of(*written(tmp_path, **more))
    with pytest.raises(UserError, match=r"objective\.prediction=sample "):
        config_of(*written(tmp_path, prediction_type="sample"))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("[")
    with pytest.raises(DamagedError, match=r"scheduler_config\.json"):
        config_of("model=local", f"model.path={tmp_path}")
    with pytest.raises(UserError, match="objective=eps or objective=v"):
        config_of("model=local", "model.path=nobody/nothing")
    assert config_of("model=local", "model.path=nobody/nothing", "objective=v")
