"""The memory estimate: what it counts, what it chooses and refuses; the presets it was made for; precision."""

import json
import re

import pytest
import torch

from ip2p_lightning.config.compose import CONF
from ip2p_lightning.errors import UserError
from ip2p_lightning.training import fit
from ip2p_lightning.training.memory.activations import kept
from ip2p_lightning.training.memory.estimate import describe_memory, estimate, resolve_checkpointing
from tests.support.configs import config_of

CARDS = {"gpu_24g": 24, "gpu_12g": 12, "gpu_8g": 8}  # GiB


@pytest.fixture(scope="module")
def shape(sd_folder):
    return json.loads((sd_folder / "unet" / "config.json").read_text())


def on(device, shape):
    from diffusers import UNet2DConditionModel

    with torch.device(device):
        return UNet2DConditionModel.from_config(shape)


# -- what is counted -------------------------------------------------------------------------------------------------


def test_activations_are_those_of_a_real_pass(shape):
    unet, saved, alive = on("cpu", shape), {}, []

    def keep(x):
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)
        return x

    own = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        unet(torch.randn(1, 4, 16, 16), torch.zeros(1), encoder_hidden_states=torch.randn(1, 77, 32))
    real = sum(size for place, size in saved.items() if place not in own)
    assert kept(on("meta", shape), 16, 77, 32).image == pytest.approx(real, rel=0.05)


def test_half_precision_keeps_less_of_images_and_copies_of_matrices(shape):
    whole, half = (kept(on("meta", shape), 16, 77, 32, half=h) for h in (False, True))
    matrices = sum(p.numel() for p in on("meta", shape).parameters() if p.ndim > 1)
    assert whole.copies == 0 and 0.5 * whole.image < half.image < 0.9 * whole.image
    assert half.copies == pytest.approx(2 * matrices, rel=0.02)  # and a few biases


def test_checkpointing_keeps_less_and_of_frozen_weights_no_copies(shape):
    plain, saving = (kept(on("meta", shape), 16, 77, 32, True, checkpointing=c) for c in (False, True))
    assert saving.image < 0.6 * plain.image and saving.copies == plain.copies
    frozen = on("meta", shape).requires_grad_(False)
    frozen.conv_in.requires_grad_(True)
    assert kept(frozen, 16, 77, 32, True, checkpointing=True).copies < 0.5 * plain.copies


@pytest.mark.parametrize(("opt", "numbers"), [("adopt", 2), ("lion", 1), ("muon", 1), ("adafactor", 0)])
def test_an_optimizer_is_asked_what_it_keeps(opt, numbers, sd_folder):
    local = ("model=local", f"model.path={sd_folder}")
    found = estimate(config_of(*local, "optimizer=timm", f"optimizer.opt={opt}"))
    assert found.optimizer == pytest.approx(numbers * found.gradients, abs=0.2 * found.gradients)


def test_an_estimate_grows_with_what_costs_memory(sd_folder, monkeypatch):
    local = ("model=local", f"model.path={sd_folder}", "trainer=cpu", "loader.batch_size=2")
    monkeypatch.setattr("ip2p_lightning.training.memory.estimate._pictures", lambda config: 0.0)  # not the peak here
    changes = ("seed=0", "model.ema=null", "loader.batch_size=8", "model.gradient_checkpointing=true")
    base, without, larger, saving = (estimate(config_of(*local, word)) for word in changes)
    assert without.average == 0 < base.average and saving.activations < base.activations
    assert larger.activations == pytest.approx(4 * base.activations)
    monkeypatch.setattr("ip2p_lightning.training.memory.estimate.room", lambda config: 0.1)
    with pytest.raises(UserError, match=r"but there are 0\.1 GiB; try .*gradient_checkpointing=true"):
        describe_memory(config_of(*local))


def test_the_full_size_is_what_was_measured():
    """17.8 GiB, benchmarks/results/full_size_cpu_202611.md."""
    words = ["model=sd15", "trainer=cpu", "val_every=0", "loader.batch_size=1"]
    assert estimate(config_of(*words)).total == pytest.approx(17.8, rel=0.05)


def test_low_rank_adapters_need_a_quarter():
    pytest.importorskip("peft")
    whole, adapters = (estimate(config_of("model=sd15", "trainer=gpu", f"unet={u}")) for u in ("sd", "sd_lora"))
    assert adapters.gradients + adapters.optimizer + adapters.average < 0.1 and adapters.total < 0.4 * whole.total
    half = estimate(config_of("model=sd15", "trainer=gpu", "unet=sd_lora", "unet.lora.dtype=bfloat16"))
    assert half.copies < 0.05 and half.weights == pytest.approx(adapters.weights - 1.6, abs=0.05)


# -- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "model"), [*((preset, "sd15") for preset in CARDS), ("gpu_24g", "ip2p")])
def test_a_preset_fits_its_card_and_says_what_the_estimate_says(preset, model):
    if preset != "gpu_24g":
        pytest.importorskip("peft")
    found = estimate(config_of(f"model={model}", f"trainer={preset}"))
    assert found.total <= 0.9 * CARDS[preset]
    told = float(re.search(r"estimate is (\d+\.\d) GiB", (CONF / "trainer" / f"{preset}.yaml").read_text()).group(1))
    assert found.total == pytest.approx(told, abs=0.15)


# -- what is chosen and refused --------------------------------------------------------------------------------------


def test_checkpointing_goes_on_where_it_would_not_fit_without(monkeypatch):
    config = config_of("model=sd15", "trainer=gpu_24g")
    for there, chosen in ((24.0, False), (22.5, True), (None, False)):
        monkeypatch.setattr("ip2p_lightning.training.memory.estimate.room", lambda config, there=there: there)
        assert resolve_checkpointing(config)["model"]["gradient_checkpointing"] is chosen
    monkeypatch.setattr("ip2p_lightning.training.memory.estimate.room", lambda config: 22.5)
    assert describe_memory(config).endswith("gradient checkpointing on")
    monkeypatch.setattr("ip2p_lightning.training.memory.estimate.room", lambda config: 8.0)
    with pytest.raises(UserError, match=r"but there are 8\.0 GiB; try .*optimizer=adamw8bit, .*unet=sd_lora"):
        describe_memory(config)


def test_ranks_on_one_cpu_share_its_memory():
    from ip2p_lightning.training.memory.estimate import room

    cpu = {"accelerator": "cpu", "strategy": "ddp"}
    one, two = (room({"trainer": {**cpu, "devices": n}}) for n in (1, 2))
    assert one == 2 * two


@pytest.mark.parametrize("name", ["sd15", "ip2p"])
def test_a_dry_run_needs_no_download(name, capsys):
    assert describe_memory(config_of(f"model={name}", "trainer=gpu")).startswith("memory: about 20")
    unknown = config_of("model=local", "model.path=nobody/knows", "objective=eps")
    assert describe_memory(unknown) == "memory: not known before the weights are downloaded"
    assert capsys.readouterr() == ("", "")


# -- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("able", "said"), [({}, "4 to 16 times faster"), ({"amx_bf16": True}, "")])
def test_half_precision_on_a_cpu_without_it_is_called_slow(able, said, monkeypatch, capsys):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    fit._set_up_device(config_of("trainer.precision=bf16-mixed"))
    assert said in capsys.readouterr().out or not said
    fit._set_up_device(config_of())
    assert capsys.readouterr().out == ""


def test_products_of_float32_are_as_exact_as_the_config_says():
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("high", "highest"):
            fit._set_up_device(config_of(f"matmul_precision={precision}"))
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    with pytest.raises(UserError, match="matmul_precision=tf32"):
        config_of("matmul_precision=tf32")
