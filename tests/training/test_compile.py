"""Compiled training steps: eager's losses, the same names, no compilation for edits; what is refused."""

import functools

import pytest
import torch

from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.pixel_unet import PixelEditor
from ip2p_lightning.runs import checkpoint
from tests.support.configs import config_of
from tests.support.models import module_of
from tests.support.trained import logged, train_run

# one kind of block, so that one is compiled
SMALL = ["model=tiny", "task=denoise", "unet.widths=[16]", "unet.encoder_blocks=[2]", "unet.decoder_blocks=[]"]
SMALL += ["val_every=2", "log_every=1", "trainer.max_steps=4", "loader.eval_batch_size=1"]


def trained(tmp_path, monkeypatch, how, words):
    """An eager run, a compiled one, and how many graphs were compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    runs = [train_run(tmp_path / name, *words, f"model.compile={name}") for name in ("off", how)]
    return *runs, torch._dynamo.utils.counters["stats"]["unique_graphs"]


def agree(eager, compiled, bound=1e-5):
    """Losses also after validations, which swap the averaged weights in and out; scores are those of the average."""
    for key in ("train/loss", "train/grad_norm", "val/psnr"):
        found = logged(eager, key)
        assert len(found) >= 2 and logged(compiled, key) == pytest.approx(found, rel=bound), key
    a, b = (checkpoint.load(checkpoint.newest_valid(run)) for run in (eager, compiled))
    assert list(a["state_dict"]) == list(b["state_dict"]) and a["ema"]["weights"].keys() == b["ema"]["weights"].keys()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_regions_compiled_compute_what_eager_computes(tmp_path, monkeypatch, backend):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    eager, compiled, count = trained(tmp_path, monkeypatch, "regional", SMALL)
    agree(eager, compiled)
    assert count == 1  # both blocks share it; validation and pictures, of other sizes, compiled nothing
    more = ["trainer.max_steps=5", "resume_allow=[trainer.max_steps,model.compile]"]
    train_run(compiled, *SMALL, *more, "model.compile=off")
    train_run(eager, *SMALL, *more, "model.compile=regional")
    assert logged(eager, "train/loss")[5] == pytest.approx(logged(compiled, "train/loss")[5], rel=1e-5)


@pytest.mark.slow  # two to three minutes of CPU each
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("how", ["regional", "full"])
def test_a_compiled_sd_unet_computes_what_eager_computes(sd_folder, tmp_path, monkeypatch, how, lora):
    if lora:
        pytest.importorskip("peft")
    words = ["model=local", f"model.path={sd_folder}", "task=denoise", "loader.resize=null", *SMALL[5:]]
    eager, compiled, count = trained(tmp_path, monkeypatch, how, [*words, *(["unet=sd_lora"] if lora else [])])
    agree(eager, compiled, 1e-4)
    assert 1 <= count <= 8


def test_no_compiler_and_a_unet_without_repeated_blocks_are_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UserError, match=r"compile=full needs a C\+\+ compiler, there is no no-such-compiler"):
        module_of("model=tiny", "model.compile=full")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(PixelEditor, "_repeated_blocks", ())
    with pytest.raises(UserError, match="needs repeated blocks"):
        module_of("model=tiny", "model.compile=regional")


def test_graphs_need_a_gpu_and_one_micro_batch_a_step():
    refused = {"cpu": "CUDA graphs need a GPU", "gpu": "accumulate_grad_batches=1 with a larger loader.batch_size"}
    for trainer, told in refused.items():
        with pytest.raises(UserError, match=told):
            config_of("model=tiny", "model.compile=graphs", f"trainer={trainer}")
    config_of("model=sd15", "model.compile=graphs", "trainer=gpu", "trainer.accumulate_grad_batches=1")
