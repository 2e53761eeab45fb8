"""Every optimizer that a word chooses: it moves the weights, and continued training ends where the whole one ends."""

import sys

import pytest
import torch

from ip2p_lightning.errors import UserError
from tests.support.models import SMALL, config_of, module_of
from tests.support.splits import Split, fit

TIMM = ("lion", "adafactor", "muon", "adopt")
WORDS = {name: ["optimizer=timm", f"optimizer.opt={name}"] for name in TIMM} | {"adamw8bit": ["optimizer=adamw8bit"]}


@pytest.mark.parametrize(("name", "lora"), [*((name, False) for name in WORDS), ("muon", True), ("adamw8bit", True)])
def test_it_trains_and_resumes_exactly(name, lora, sd_folder, tmp_path):
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    if lora:
        pytest.importorskip("peft")
    words = (*SMALL, *WORDS[name], "model=local", f"model.path={sd_folder}", "task=denoise", "optimizer.lr=1e-3")
    words += ("loader.size=32", *(["unet=sd_lora", "unet.lora.dropout=0.1"] if lora else []))
    whole = fit(Split(1, 1), words, 4, tmp_path / "whole")
    rest = fit(Split(1, 1), words, 4, tmp_path / "rest", tmp_path / "whole" / "middle.ckpt")
    assert torch.equal(whole.moved, rest.moved) and rest.seen == {n: whole.seen[n] for n in (2, 3)}
    assert torch.isfinite(whole.moved).all() and (whole.moved != 0).double().mean() > 0.95


def test_eight_bits_are_eight_bits():
    pytest.importorskip("bitsandbytes")
    module = module_of("model=tiny", "optimizer=adamw8bit")
    optimizer = module.optimizer(list(module.parameters()))
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    large = [p for p in module.parameters() if p.numel() >= 4096]
    assert large and all(optimizer.state[p]["state1"].dtype == torch.uint8 for p in large)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "bitsandbytes.optim", raising=False)
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install .ip2p-lightning.gpu.."):
        config_of("model=tiny", "optimizer=adamw8bit")


def test_sharded_weights_are_not_for_eight_bits():
    pytest.importorskip("bitsandbytes")
    with pytest.raises(UserError, match=r"adamw8bit and .*fsdp2"):
        config_of("model=tiny", "optimizer=adamw8bit", "trainer=ddp", "trainer.strategy=fsdp2")
