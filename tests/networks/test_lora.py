"""Low-rank adapters: what is trained, kept, merged and exported, held against peft and diffusers."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ip2p_lightning.cli.evaluate import main as evaluate
from ip2p_lightning.cli.export import main as export
from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.networks.lora import Lora
from ip2p_lightning.networks.unet import load_unet
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.trained_run import open_run
from tests.support.models import config_of, module_of, stirred
from tests.support.photos import PROMPT, edit, photo, pixels
from tests.support.processes import QUIET, run
from tests.support.processes import SMALL as FORKED
from tests.support.sd_checkpoint import stock_pipeline, write_sd_checkpoint
from tests.support.trained import train_run

pytest.importorskip("peft")
ADAPTER = "pytorch_lora_weights.safetensors"
WORDS = ["unet=sd_lora", "unet.lora.rank=4", "unet.lora.alpha=8", "task=denoise", "loader.resize=null"]


@pytest.fixture(scope="module")
def runs(checkpoints, tmp_path_factory):
    """Each of them after two large steps of adapters."""
    root, large = tmp_path_factory.mktemp("runs"), [*WORDS, "optimizer.lr=1e-2", "sampler.steps=4"]
    return {n: train_run(root / str(n), "model=local", f"model.path={path}", *large) for n, path in checkpoints.items()}


def adapted(path, seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return load_unet(path, lora=Lora(rank=4, **settings))


def passed(unet):
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 8, 8, 8, generator=g), torch.randn(2, 77, 32, generator=g)
    return unet(x, torch.tensor([3, 700]), encoder_hidden_states=text, return_dict=False)[0]


# -- what is computed ------------------------------------------------------------------------------------------------


def test_outputs_and_gradients_are_those_of_diffusers_own_lora(checkpoints):
    """As diffusers' LoRA scripts do it, on a base whose conv_in needs no surgery."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    ours = adapted(checkpoints[8])
    theirs = UNet2DConditionModel.from_pretrained(checkpoints[8], subfolder="unet").requires_grad_(False)
    names = ["to_k", "to_q", "to_v", "to_out.0"]
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=names))
    theirs.load_state_dict(ours.state_dict())  # the same names
    for unet in (ours, theirs):
        g = torch.Generator().manual_seed(2)
        for p in (p for p in unet.parameters() if p.requires_grad):
            p.data += 0.1 * torch.randn(p.shape, generator=g)
    assert torch.equal(passed(ours), passed(theirs.eval()))
    for unet in (ours, theirs):
        passed(unet).square().mean().backward()
    gradients = [{n: p.grad for n, p in unet.named_parameters() if p.grad is not None} for unet in (ours, theirs)]
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) == 2 * 4 * 2 * 4  # A, B; q k v out; 2 x 4 blocks
    assert all(torch.equal(gradients[0][n], gradients[1][n]) and gradients[0][n].any() for n in gradients[0])


@pytest.mark.parametrize("channels", [4, 8])
def test_at_first_the_model_is_its_base(checkpoints, channels):
    with torch.no_grad():
        assert torch.equal(passed(adapted(checkpoints[channels])), passed(load_unet(checkpoints[channels])))


def test_the_start_depends_on_the_seed_alone(checkpoints):
    a, b, c = (adapted(checkpoints[8], seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[n], b[n]) for n in a) and not all(torch.equal(a[n], c[n]) for n in a)


def test_dropout_is_for_training_only(checkpoints):
    module = module_of("model=local", f"model.path={checkpoints[8]}", *WORDS, "unet.lora.dropout=0.5")
    stirred(module, 0.05)
    with torch.no_grad():
        assert not torch.equal(passed(module.unet), passed(module.unet))  # as a run begins
        module.eval()
        assert torch.equal(passed(module.unet), passed(module.unet))


# -- what is trained and kept ----------------------------------------------------------------------------------------


def held(run):
    return checkpoint.load(checkpoint.newest_valid(run))


@pytest.mark.parametrize("channels", [4, 8])
def test_a_checkpoint_holds_what_is_trained_and_names_its_base(checkpoints, runs, channels):
    content = held(runs[channels])
    names = {n for n in content["state_dict"] if n.startswith("unet.")}
    layer = {"unet.conv_in.weight", "unet.conv_in.bias"} if channels == 4 else set()
    assert {n for n in names if ".lora_" not in n} == layer and len(names) == 64 + len(layer)
    assert content["ema"]["weights"].keys() == names
    assert len(content["optimizer_states"][0]["state"]) == len(names)
    assert content["base"]["path"] == checkpoints[channels] and len(content["base"]["sha256"]) == 64
    weights = Path(checkpoints[channels], "unet", "diffusion_pytorch_model.safetensors").stat().st_size
    assert sum(w.numel() * 4 for n, w in content["state_dict"].items() if n in names) < weights / 20


@pytest.mark.parametrize("channels", [4, 8])
def test_the_base_stays_and_the_rest_moves(checkpoints, runs, channels):
    """Also the inputs for the photo, which begin at zero; averaged weights follow the raw ones."""
    raw, average = held(runs[channels])["state_dict"], held(runs[channels])["ema"]["weights"]
    began = load_unet(checkpoints[channels]).state_dict()
    unet = open_run(runs[channels], "raw", merged=False).module.unet.state_dict()
    frozen = {n.replace(".base_layer", ""): w for n, w in unet.items() if f"unet.{n}" not in raw}
    assert all(torch.equal(began[n], w) for n, w in frozen.items()) and len(frozen) > 100
    assert all(raw[n].any() for n in average if "lora_B" in n)
    assert not any(torch.equal(raw[n], average[n]) for n in average)
    if channels == 4:
        assert raw["unet.conv_in.weight"][:, 4:].abs().amax((0, 2, 3)).gt(0).all()
        assert not torch.equal(raw["unet.conv_in.weight"][:, :4], began["conv_in.weight"][:, :4])


def test_another_base_is_refused(tmp_path):
    base = write_sd_checkpoint(tmp_path / "base", in_channels=8)
    words = [*FORKED, *QUIET, "model=local", f"model.path={base}", *WORDS, "save_every=1"]
    words.append(f"hydra.run.dir={tmp_path}/run")
    code, said = run([*words, "fault=kill@step=2"], tmp_path / "log")
    assert code == -signal.SIGKILL, said
    write_sd_checkpoint(base, in_channels=8, seed=1)
    with pytest.raises(DamagedError, match="not those that this run was trained with"):
        open_run(tmp_path / "run")
    code, said = run(words, tmp_path / "log")
    assert code == DamagedError.code and "not those that this run was trained with" in said, said


# -- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [4, 8])
def test_merged_weights_compute_the_same(runs, channels):
    with torch.no_grad():
        whole, parts = (passed(open_run(runs[channels], merged=m).module.unet) for m in (True, False))
    assert (whole - parts).abs().max() <= 1e-5 * parts.abs().max()
    merged = open_run(runs[channels]).module.unet
    assert not any("lora" in n or "base_layer" in n for n in merged.state_dict())


def of_stock(pipeline, source):
    args = {"num_inference_steps": 5, "image_guidance_scale": 1.5, "generator": torch.Generator().manual_seed(3)}
    return np.asarray(pipeline(PROMPT, Image.open(source), **args).images[0]).astype(int)


@pytest.mark.parametrize("channels", [4, 8])
def test_a_stock_pipeline_makes_the_same_pixels(checkpoints, runs, tmp_path, channels):
    source, out = photo(tmp_path / "a.png", (64, 48)), tmp_path / "o.png"
    ddim = ("--seed", 3, "--steps", 5, "--text-scale", 7.5, "--image-scale", 1.5, "--scheduler", "ddim")
    assert edit(runs[channels], source, PROMPT, "-o", out, *ddim) == 0
    assert export([str(runs[channels]), str(tmp_path / "whole")]) == 0
    found = {"merged": of_stock(stock_pipeline(tmp_path / "whole"), source)}
    if channels == 8:
        assert export([str(runs[8]), str(tmp_path / "adapter"), "--adapter"]) == 0
        pipeline = stock_pipeline(checkpoints[8])
        plain = of_stock(pipeline, source)
        pipeline.load_lora_weights(tmp_path / "adapter")
        found["adapter"] = of_stock(pipeline, source)
        assert np.abs(plain - found["adapter"]).max() > 3  # it does something
    for name, image in found.items():
        assert np.abs(pixels(out) - image).max() <= 1 and image.std() > 10, name


def test_an_exported_adapter_is_small_and_says_how_to_use_it(checkpoints, runs, tmp_path):
    assert export([str(runs[8]), str(tmp_path / "out"), "--adapter"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {ADAPTER, "README.md", "weights.json"}
    found, average = load_file(tmp_path / "out" / ADAPTER), held(runs[8])["ema"]["weights"]
    for name, weight in average.items():
        assert torch.equal(found[name.replace(".default", "")], weight)
    assert len(found) == len(average)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f'from_pretrained("{checkpoints[8]}")' in card and "load_lora_weights" in card
    assert export([str(runs[8]), str(tmp_path / "out"), "--adapter", "--overwrite"]) == 0


@pytest.mark.parametrize("adapter", [True, False])
def test_the_code_on_the_card_gives_the_runs_pixels(runs, tmp_path, adapter):
    """The run samples with DDIM, its base with PNDM."""
    assert export([str(runs[8]), str(tmp_path / "out"), *(["--adapter"] if adapter else [])]) == 0
    code = (tmp_path / "out" / "README.md").read_text().split("```")[1].removeprefix("python\n")
    found = {"photo": Image.open(photo(tmp_path / "a.png", (64, 48)))}
    exec(code.replace('"DIR"', repr(str(tmp_path / "out"))), found)
    prompt = re.search(r'pipeline\("(.*?)", photo', code)[1]
    assert edit(runs[8], tmp_path / "a.png", prompt) == 0
    assert np.abs(pixels(tmp_path / "a-edit.png") - np.asarray(found["edit"]).astype(int)).max() <= 1


# -- refusals --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_as_an_adapter_is_refused(runs, sd_run, tmp_path, refused):
    for path, word in ((runs[4], "no input for the photo"), (sd_run, "has no adapters")):
        code, line = refused(export, path, tmp_path / "x", "--adapter")
        assert code == 2 and word in line and not (tmp_path / "x").exists()


NONSENSE = ["unet.lora.rank=0", "unet.lora.dropout=1.0", "unet.lora.alpha=-1"]
NONSENSE += ["unet.lora.dtype=bfloat16 trainer.precision=32-true", "trainer.strategy=fsdp2 unet=sd_lora trainer=ddp"]


@pytest.mark.parametrize("words", NONSENSE)
def test_what_makes_no_sense_is_refused_by_name(words):
    with pytest.raises(UserError) as refusal:
        config_of("model=local", "model.path=/x", "unet=sd_lora", *words.split())
    assert all(word.rpartition("=")[0] in str(refusal.value) for word in words.removesuffix("trainer=ddp").split())


def test_layers_a_library_or_a_base_that_are_not_there_are_refused(checkpoints, monkeypatch):
    with pytest.raises(UserError, match="unet=load_unet"):  # the pixel model has no base to adapt
        config_of("model=tiny", "unet=sd_lora")
    with pytest.raises(UserError, match=r"unet\.lora\.targets=\[\]: give"):
        Lora(targets=[])
    with pytest.raises(UserError, match=r"unet\.lora\.targets=\['to_qq'\]"):
        adapted(checkpoints[8], targets=["to_qq"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="sd_lora needs peft; pip install"):
        adapted(checkpoints[8])


# -- half precision --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(checkpoints, tmp_path_factory):
    """Frozen weights in bfloat16 beside a trained conv_in in float32; validated, with a grid."""
    words = ["model=local", f"model.path={checkpoints[4]}", *WORDS, "optimizer.lr=1e-2", "sampler.steps=4"]
    words += ["unet.lora.dtype=bfloat16", "trainer.precision=bf16-mixed", "val_examples=1"]
    return train_run(tmp_path_factory.mktemp("half") / "run", *words, "val_every=2")


def test_a_model_of_two_precisions_is_validated_edits_and_is_exported(half, tmp_path):
    assert [path.name for path in (half / "samples").iterdir()] == ["step-000002.png"]
    assert edit(half, photo(tmp_path / "a.png", (64, 48)), PROMPT, "-o", tmp_path / "o.png", "--steps", 2) == 0
    assert evaluate([str(half), "--steps", "2", "--sheet-examples", "0"]) == 0
    assert export([str(half), str(tmp_path / "whole")]) == 0


def test_frozen_weights_in_bfloat16_train_and_merge(half):
    content = held(half)
    assert {w.dtype for n, w in content["state_dict"].items() if n.startswith("unet.")} == {torch.float32}
    parts, whole = (open_run(half, merged=m).module.unet for m in (False, True))
    dtypes = {n: p.dtype for n, p in parts.named_parameters()}
    assert {d for n, d in dtypes.items() if f"unet.{n}" not in content["state_dict"]} == {torch.bfloat16}
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    with torch.no_grad():
        assert (passed(parts.float()) - passed(whole)).abs().max() <= 1e-4
