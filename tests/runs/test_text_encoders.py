"""Runs with another text encoder than the default: trained, killed, continued, and used by the commands."""

import pytest
import torch

from ip2p_lightning.cli import evaluate, inspect
from ip2p_lightning.config.build import build_module
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_config
from tests.support.photos import edit, photo
from tests.support.processes import SMALL, digest, run
from tests.support.sentence_encoder import write_sentence_encoder

WORDS = [*SMALL, "model=tiny", "unet.widths=[8,16,16]", "val_every=2", "save_every=1", "log_every=1"]
WORDS += ["trainer.max_steps=2", "val_examples=1", "loader.eval_draws=1"]


@pytest.fixture(scope="module", params=["static", "sentence"])
def trained(request, tmp_path_factory):
    """A run that was killed after its first step and continued, and one that nothing happened to."""
    work = tmp_path_factory.mktemp(request.param)
    words = [*WORDS, f"text_encoder={request.param}"]
    if request.param == "sentence":
        words.append(f"text_encoder.path={write_sentence_encoder(work / 'encoder')}")
    code, said = run([*words, f"hydra.run.dir={work}/whole"], work / "log")
    assert code == 0, said
    assert run([*words, "fault=kill@step=1", f"hydra.run.dir={work}/run"], work / "log")[0] == -9
    code, said = run([*words, f"hydra.run.dir={work}/run"], work / "log")
    assert code == 0, said
    return work / "run", work / "whole"


def test_it_continues_to_the_last_bit_and_the_projection_alone_is_stored_and_trained(trained):
    assert digest(trained[0]) == digest(trained[1])
    stored = checkpoint.load(checkpoint.checkpoints(trained[0])[0])["state_dict"]
    assert [name for name in stored if name.startswith("text.")] == ["text.weight"]
    assert not torch.equal(stored["text.weight"], build_module(read_config(trained[0])).text.weight)
    assert list(trained[0].rglob("projector_config.pbtxt"))


def test_the_commands_take_it(trained, tmp_path):
    folder, _ = trained
    assert inspect.main(["verify", str(folder)]) == 0
    assert edit(folder, photo(tmp_path / "a.png"), "lose the drops", "-o", tmp_path / "b.png") == 0
    assert (tmp_path / "b.png").exists()
    assert evaluate.main([str(folder), "--sheet-examples", "0"]) == 0
    assert (folder / "scores.csv").read_text().count(",model,") == 4
