"""``ip2p-export`` through its command: a folder that diffusers loads, and the same pixels there."""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ip2p_lightning.cli.export import main, new_folder
from ip2p_lightning.diffusion.objective import DiffusionObjective
from ip2p_lightning.diffusion.samplers import MORE_SCHEDULERS, SCHEDULERS, DiffusionSampler
from ip2p_lightning.editing.model_card import model_card, origin
from ip2p_lightning.editing.pipeline import open_pipeline, scheduler_config, weight_digest, weights_of
from ip2p_lightning.errors import StorageError
from ip2p_lightning.runs.checkpoint import load, newest_valid, step_of
from ip2p_lightning.runs.trained_run import open_run
from tests.support.photos import PROMPT, edit, photo, pixels

PIPELINE = diffusers.StableDiffusionInstructPix2PixPipeline


@pytest.fixture(scope="module")
def exported(sd_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "model"
    assert main([str(sd_run), str(out)]) == 0
    return out


def stock(folder, scheduler=None):
    pipeline = PIPELINE.from_pretrained(folder)
    if scheduler:
        pipeline.scheduler = getattr(diffusers, SCHEDULERS[scheduler]).from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("scheduler", [None, "ddim", "euler-a", "dpm++", "unipc"])
def test_pixels_are_those_of_the_stock_pipeline(sd_run, exported, tmp_path, scheduler):
    size = (64, 48) if scheduler in ("ddim", "unipc") else (67, 50)
    source, out = photo(tmp_path / "a.png", size), tmp_path / "o.png"
    options = ("--seed", 11, "--steps", 5, "--text-scale", 5, "--image-scale", 1.4)
    options += ("--scheduler", scheduler) if scheduler else ()
    assert edit(sd_run, source, PROMPT, "-o", out, *options) == 0
    seed, scales = torch.Generator().manual_seed(11), {"guidance_scale": 5.0, "image_guidance_scale": 1.4}
    image = Image.open(source)
    expected = stock(exported, scheduler)(PROMPT, image, num_inference_steps=5, generator=seed, **scales).images[0]
    expected = expected if expected.size == size else expected.resize(size, Image.Resampling.LANCZOS)
    expected = np.asarray(expected).astype(int)
    assert expected.std() > 10 and np.abs(pixels(out) - expected).max() <= 1


def test_an_exported_folder_is_a_baseline(sd_run, exported, tmp_path):
    source = photo(tmp_path / "a.png", (64, 48))
    for model, name in ((sd_run, "run.png"), (exported, "folder.png")):
        assert edit(model, source, PROMPT, "-o", tmp_path / name, "--steps", 3, "--scheduler", "euler-a") == 0
    assert np.array_equal(pixels(tmp_path / "run.png"), pixels(tmp_path / "folder.png"))


@pytest.mark.parametrize("kind", [None, *MORE_SCHEDULERS])
def test_a_folders_own_scheduler_samples_it(exported, tmp_path, kind):
    """Also where it says v-prediction, other betas, and settings that only its class knows."""
    folder, source = shutil.copytree(exported, tmp_path / "model"), photo(tmp_path / "a.png", (64, 48))
    if kind is not None:
        settings = {"prediction_type": "v_prediction", "beta_end": 0.015, "beta_schedule": "linear", "steps_offset": 1}
        more = {"skip_prk_steps": True} if kind == "PNDMScheduler" else {}
        known = inspect.signature(getattr(diffusers, kind)).parameters
        settings = {name: value for name, value in (settings | more).items() if name in known}
        getattr(diffusers, kind)(**settings).save_pretrained(folder / "scheduler")
        index = json.loads((folder / "model_index.json").read_text()) | {"scheduler": ["diffusers", kind]}
        (folder / "model_index.json").write_text(json.dumps(index))
    steps = {"num_inference_steps": 4, "guidance_scale": 5.0, "image_guidance_scale": 1.4}
    generator = torch.Generator().manual_seed(0)
    expected = stock(folder)(PROMPT, Image.open(source), generator=generator, **steps).images[0]
    assert edit(folder, source, PROMPT, "--steps", 4, "--text-scale", 5, "--image-scale", 1.4) == 0
    assert np.abs(pixels(tmp_path / "a-edit.png") - np.asarray(expected).astype(int)).max() <= 1


def test_a_scheduler_that_is_not_supported_is_named(exported, tmp_path, capsys):
    folder = shutil.copytree(exported, tmp_path / "model")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "DDIMParallelScheduler"}))
    assert edit(folder, photo(tmp_path / "a.png", (64, 48)), PROMPT, "--steps", 2) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "DDIMParallelScheduler, is not supported; sampling with DDIM" in told


def test_what_a_killed_export_left_is_removed_or_put_back(exported, tmp_path, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    out = tmp_path / ("model" * 50)  # 250 bytes: too long for a temporary name made of it
    for name in ("a", out.name):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("os.getpid", lambda: gone.pid)
            patched.setattr(shutil, "rmtree", lambda *args, **more: None)  # killed: nothing is cleaned up
            with new_folder(tmp_path / name) as folder:
                shutil.copytree(exported, folder, dirs_exist_ok=True)
                raise KeyboardInterrupt
    (tmp_path / f".tmp-{gone.pid}-new-elsewhere-x").mkdir()  # of another machine, where it may be alive
    assert len(list(tmp_path.iterdir())) == 3
    with new_folder(out) as folder:
        (folder / "new").write_text("y")
    assert {p.name for p in tmp_path.iterdir()} == {out.name, f".tmp-{gone.pid}-new-elsewhere-x"}
    out.rename(folder.with_name(folder.name.replace("-new-", "-old-").replace(str(os.getpid()), str(gone.pid))))
    with pytest.raises(KeyboardInterrupt), new_folder(out):
        assert content(out) == {"new": b"y"}
        raise KeyboardInterrupt
    assert content(out) == {"new": b"y"}


def test_the_folder_is_complete(exported):
    index = json.loads((exported / "model_index.json").read_text())
    assert index["_class_name"] == PIPELINE.__name__ and index["requires_safety_checker"] is False
    names = set(content(exported))
    for part in ("unet", "vae"):
        assert {f"{part}/config.json", f"{part}/diffusion_pytorch_model.safetensors"} <= names
    assert {"text_encoder/model.safetensors", "tokenizer/vocab.json", "README.md", "weights.json"} <= names
    assert json.loads((exported / "unet" / "config.json").read_text())["in_channels"] == 8
    assert not [name for name in names if name.endswith((".bin", ".ckpt", ".pt"))]
    pipeline = stock(exported)
    assert pipeline.safety_checker is None and type(pipeline.scheduler).__name__ == "DDIMScheduler"


def test_weights_are_the_averaged_or_the_raw_ones(sd_run, exported, tmp_path):
    assert main([str(sd_run), str(tmp_path / "raw"), "--weights", "raw"]) == 0
    held = load(newest_valid(sd_run))
    wanted = {exported: held["ema"]["weights"], tmp_path / "raw": held["state_dict"]}
    for folder, weights in wanted.items():
        found = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        assert found and all(torch.equal(value, weights[f"unet.{name}"]) for name, value in found.items())
    assert len({json.loads((folder / "weights.json").read_text())["sha256"] for folder in wanted}) == 2


def test_digest_is_that_of_the_files_and_sees_names_shapes_types_and_bytes(exported):
    stored = json.loads((exported / "weights.json").read_text())
    assert weight_digest(weights_of(open_pipeline(str(exported)))) == stored
    zeros = torch.zeros(2, 3)
    others = [{"b": zeros}, {"a": zeros.T}, {"a": zeros.int()}, {"a": -zeros}, {"a": zeros, "b": zeros}, {}]
    assert len({weight_digest(w)["sha256"] for w in [{"a": zeros}, *others]}) == 7
    assert weight_digest({"a": zeros, "b": zeros + 1}) == weight_digest({"b": zeros + 1, "a": zeros})


def test_same_command_same_bytes(sd_run, exported):
    before = content(exported)
    assert main([str(sd_run), str(exported), "--overwrite"]) == 0
    after = content(exported)
    assert before.keys() == after.keys()  # the card holds the command: --overwrite
    assert {k for k in before if before[k] != after[k]} <= {"README.md", "SHA256SUMS"}


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_every_scheduler_of_the_export_walks_the_runs_steps(tmp_path, name, zero_snr):
    objective = DiffusionObjective("v_prediction", zero_terminal_snr=zero_snr)
    sampler = DiffusionSampler("ddim", steps=7)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler_config(sampler, objective)))
    loaded = diffusers.DDIMScheduler.from_pretrained(tmp_path)
    theirs = getattr(diffusers, SCHEDULERS[name]).from_config(loaded.config)
    ours = DiffusionSampler(name, steps=7).build(objective)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(7)
    assert torch.equal(ours.timesteps, theirs.timesteps) and theirs.config.prediction_type == "v_prediction"
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)


def test_card_tells_scores_base_and_prompts(sd_run, sd_folder, tmp_path):
    run = shutil.copytree(sd_run, tmp_path / "run")
    step, rows = (
        step_of(newest_valid(run)),
        "run,step,weights,sampler,seed,dtype,draws,method,task,split,prompts,psnr,ssim,n\n",
    )
    rows += f"run,{step},ema,steps=2,0,float32,1,model,denoise,test,seen,27.1234,0.80000,3\n"
    rows += f"run,{step},raw,steps=2,0,float32,1,model,denoise,test,seen,11.1111,0.80000,3\n"
    rows += "run,0,ema,steps=2,0,float32,1,model,denoise,val,seen,12.2222,0.80000,3\n"
    (run / "scores.csv").write_text(rows)
    assert main([str(run), str(tmp_path / "out")]) == 0
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())  # the table's columns are padded
    for word in (
        str(sd_folder),
        "| model | denoise | test | seen | steps=2 | 27.1234 |",
        "guidance_scale=7.5",
        "averaged",
    ):
        assert word in card
    assert "11.1111" not in card and "12.2222" not in card  # of other weights, and of another step
    assert json.loads((tmp_path / "out" / "weights.json").read_text())["sha256"] in card


def test_card_is_short_and_names_its_origin_as_far_as_it_is_known(sd_run, tmp_path):
    opened = open_run(sd_run)
    pool = opened.config["task"]["prompts"]["prompts"]
    sentence = 'say "it\'s" a\\b'  # what Python must read back
    pool[0] = sentence
    opened.config["model"]["path"] = "timbrooks/instruct-pix2pix"
    card = model_card(opened, {"sha256": "x"}, "typed")
    assert len(card.splitlines()) < 250 and "base_model: timbrooks/instruct-pix2pix\nlicense: mit\n---" in card
    others = [node["prompts"] for name, node in opened.config["prompts"].items() if name not in ("limit", "denoise")]
    assert all(prompt not in card for other in others for prompt in other)
    assert sum(prompt in card for prompt in pool[1:]) <= 9 < len(pool)
    call = ast.parse(re.search(r"^edit = (.*)\.images", card, flags=re.M)[1], mode="eval").body
    assert call.args[0].value == sentence


def test_origin_of_weights(tmp_path):
    assert origin(None) == {} == origin(str(tmp_path)) == origin("./a/b")
    sd = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert origin(sd) == {"base_model": sd, "license": "creativeml-openrail-m"} and origin("a/b") == {
        "base_model": "a/b"
    }
    (tmp_path / "README.md").write_text("---\nlicense: openrail\ntags: [x]\n---\nlicense: the best: of all\n")
    assert origin(str(tmp_path)) == {"license": "openrail"}
    (tmp_path / "model_index.json").write_text(json.dumps({"_name_or_path": sd}, indent=2))
    assert origin(str(tmp_path)) == {"base_model": sd, "license": "openrail"}


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), RuntimeError("a bug")])
def test_the_old_export_stays_until_the_new_one_is_complete(sd_run, exported, tmp_path, monkeypatch, fault, capsys):
    out = shutil.copytree(exported, tmp_path / "out" / "model")
    before = content(out)

    def fail(*args, **kwargs):
        raise fault

    monkeypatch.setattr("ip2p_lightning.networks.text_encoder.ClipText.save", fail)
    words = [str(sd_run), str(out), "--overwrite"]
    if isinstance(fault, OSError):
        assert main(words) == 5 and "No space left" in capsys.readouterr().err
    else:
        with pytest.raises(RuntimeError):
            main(words)
    assert content(out) == before and [p.name for p in out.parent.iterdir()] == ["model"]
    with pytest.raises(RuntimeError) if isinstance(fault, RuntimeError) else monkeypatch.context():
        main([str(sd_run), str(tmp_path / "new" / "model")])
    assert not list((tmp_path / "new").iterdir())


def test_a_failed_last_move_puts_the_old_export_back(tmp_path, monkeypatch):
    out = tmp_path / "model"
    out.mkdir()
    (out / "old").write_text("x")

    def rename(path, target, move=Path.rename):
        if "-new-" in path.name:
            raise OSError(5, "Input/output error")
        return move(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StorageError), new_folder(out) as folder:
        (folder / "new").write_text("y")
    assert [p.name for p in tmp_path.iterdir()] == ["model"] and content(out) == {"old": b"x"}


def test_refusals(sd_run, tiny_run, exported, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("ip2p_lightning.runs.checkpoint.load", None)  # nothing is read before a refusal
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    cases = {"ip2p-edit": (tiny_run, tmp_path / "x"), "exists; give --overwrite": (sd_run, exported)}
    cases |= {"is not a diffusers folder": (sd_run, tmp_path / "mine", "--overwrite")}
    cases |= {"has 256 bytes": (sd_run, tmp_path / ("é" * 128))}
    cases |= {"is not a run": (tmp_path, tmp_path / "x"), "required": (sd_run,)}
    for word, words in cases.items():
        code, line = refused(main, *words)
        assert code == 2 and word in line, line
    assert not (tmp_path / "x").exists() and (tmp_path / "mine" / "thesis.txt").exists()
