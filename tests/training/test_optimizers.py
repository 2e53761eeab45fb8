"""Every optimizer that a word chooses: it moves the weights, and a killed run ends where the undisturbed one ends."""

import signal
import sys

import pytest
import torch

from ip2p_lightning.errors import UserError
from ip2p_lightning.runs import checkpoint
from tests.support.models import config_of, module_of
from tests.support.processes import QUIET, SMALL, digest, run

TIMM = ("lion", "adafactor", "muon", "adopt")
WORDS = {name: ["optimizer=timm", f"optimizer.opt={name}"] for name in TIMM} | {"adamw8bit": ["optimizer=adamw8bit"]}


def train(folder, words, *more):
    return run([*SMALL, *QUIET, *words, *more, f"hydra.run.dir={folder}"], folder.parent / f"{folder.name}.log")


@pytest.mark.parametrize(("name", "lora"), [*((name, False) for name in WORDS), ("muon", True), ("adamw8bit", True)])
def test_it_trains_and_resumes_exactly(name, lora, sd_folder, tmp_path):
    if name == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    if lora:
        pytest.importorskip("peft")
    words = [*WORDS[name], "model=local", f"model.path={sd_folder}", "task=denoise", "optimizer.lr=1e-3"]
    words += ["trainer.max_steps=3", "save_every=1", *(["unet=sd_lora"] if lora else [])]
    code, said = train(tmp_path / "whole", words)
    assert code == 0, said
    assert train(tmp_path / "run", words, "fault=kill@step=2")[0] == -signal.SIGKILL
    code, said = train(tmp_path / "run", words)
    assert code == 0, said
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")
    contents = [checkpoint.load(path) for path in checkpoint.checkpoints(tmp_path / "whole")]
    late, early = ({n: w for n, w in c["state_dict"].items() if n.startswith("unet.")} for c in contents)
    moved = [n for n in late if not torch.equal(late[n], early[n])]
    assert len(moved) == len(late) > 60 and all(torch.isfinite(w).all() for w in late.values())
    assert any(state for state in contents[0]["optimizer_states"][0]["state"].values())


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
