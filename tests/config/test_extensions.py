"""Callbacks and loggers of one's own: by permission of the environment, never of a config."""

import shutil
import sys

import pytest

from ip2p_lightning.config.extensions import PERMISSION, make_entries
from ip2p_lightning.config.train_config import TrainConfig
from ip2p_lightning.config.validate import check
from ip2p_lightning.data.sources.folder import Folder
from ip2p_lightning.errors import SecurityError, UserError
from ip2p_lightning.runs.folder import read_config
from ip2p_lightning.runs.trained_run import open_run
from ip2p_lightning.system.files import write_json
from tests.support.trained import train_run

MINE = """
import os
from pathlib import Path
from lightning.pytorch import Callback

Path(__file__).with_suffix(".imported").touch()

class Mine(Callback):
    Inner = Callback
    def __init__(self, folder, word, more=None):
        self.path, self.word = Path(folder) / "mine.txt", word
    def on_train_end(self, trainer, pl_module):
        self.path.write_text(f"{self.word} {trainer.global_step}")

class NoCallback:
    pass

def function(**kwargs):
    return Mine(**kwargs)
"""
ENTRY = {"_target_": "own_code.Mine", "word": "hello"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of configs and a module of one's own beside it; whether that was imported shows in a file."""
    monkeypatch.delenv(PERMISSION, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    (tmp_path / "own_code.py").write_text(MINE)
    member = tmp_path / "conf" / "callbacks" / "mine.yaml"
    member.parent.mkdir(parents=True)
    member.write_text("mine:\n  _target_: own_code.Mine\n  word: hello\n")
    return tmp_path


def imported(own) -> bool:
    return (own / "own_code.imported").exists()


def refusal(capsys, folder, *words) -> str:
    """The line with which ip2p-train refuses, with exit code 7, to do what would run somebody's code."""
    with pytest.raises(AssertionError, match="ended with 7"):
        train_run(folder, *words)
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


def test_without_permission_it_is_refused_and_the_line_says_how(own, capsys):
    line = refusal(capsys, own / "run", "callbacks=[default,mine]", f"--config-dir={own / 'conf'}")
    assert "IP2P_ALLOW_TARGETS=own_code.Mine ip2p-train" in line
    assert not imported(own) and not (own / "run").exists()


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"_target_": "own_code.NoCallback"}, SecurityError),
        ({"_target_": "own_code.function"}, SecurityError),
        ({"_target_": "own_code.os.system"}, UserError),
        ({"_target_": "os.system"}, SecurityError),
        ({"_target_": f"{Folder.__module__}.Folder", "root": "."}, SecurityError),  # of the list, but no callback
        ({"_target_": ["own_code.Mine"]}, SecurityError),
        (ENTRY | {"_partial_": True}, UserError),
        (ENTRY | {"folder": "/"}, UserError),
        (ENTRY | {"more": {"_target_": "own_code.Mine", "word": "inner"}}, SecurityError),
        (ENTRY | {"more": [{"_target_": "own_code.Mine"}]}, SecurityError),
        (ENTRY | {"wrod": "hello"}, UserError),
        ({"word": "hello"}, UserError),
        ("own_code.Mine", UserError),
    ],
)
def test_what_is_no_permitted_callback_is_refused(own, monkeypatch, entry, error):
    allowed = "own_code.Mine,own_code.NoCallback,own_code.function,own_code.os.system,os.system"
    monkeypatch.setenv(PERMISSION, allowed)
    with pytest.raises(error):
        check({"callbacks": {"mine": entry}}, TrainConfig)


@pytest.mark.parametrize(
    "config",
    [
        {"logger": {"mine": ENTRY}},  # a callback is no logger
        {"data": {"callbacks": {"mine": ENTRY}}},
        {"unet": ENTRY},
        {"callbacks": {"a": {"b": ENTRY}}},
        {"callbacks": ENTRY},
        {"callbacks": {"a": {"_target_": "own_code.Mine.Inner"}}},
    ],
)
def test_a_permission_is_for_one_class_in_one_place(own, monkeypatch, config):
    monkeypatch.setenv(PERMISSION, "own_code.Mine")
    with pytest.raises(UserError):
        check(config, TrainConfig)


def test_a_config_that_was_not_checked_builds_nothing_foreign(own):
    with pytest.raises(SecurityError):
        make_entries({"callbacks": {"mine": ENTRY}}, "callbacks", own)
    assert not imported(own)


# -- configs of somebody else ---------------------------------------------------------------------------------------


def test_a_stored_runs_callbacks_and_loggers_are_not_read_to_use_its_model(tiny_run, own):
    run = shutil.copytree(tiny_run, own / "run")
    write_json(run / "config.json", read_config(run) | {"callbacks": {"mine": ENTRY}, "logger": {"mine": ENTRY}})
    assert "callbacks" not in open_run(run).config
    assert not imported(own)


def test_a_permitted_callback_runs_and_its_stored_config_gives_no_permission_to_go_on(own, monkeypatch, capsys):
    monkeypatch.setenv(PERMISSION, "other.Name, own_code.Mine")
    words = ["model=tiny", "task=denoise", "callbacks=[default,mine]", f"--config-dir={own / 'conf'}"]
    run = train_run(own / "run", *words)
    assert read_config(run)["callbacks"]["mine"] == ENTRY and (run / "mine.txt").read_text() == "hello 2"
    monkeypatch.delenv(PERMISSION)
    (own / "own_code.imported").unlink()
    monkeypatch.delitem(sys.modules, "own_code")
    capsys.readouterr()
    assert PERMISSION in refusal(capsys, run, "trainer.max_steps=3", *words)
    assert not imported(own)


@pytest.mark.parametrize(
    "hydra",
    [
        "job: {env_set: {IP2P_ALLOW_TARGETS: own_code.Mine}}",
        "callbacks: {evil: {_target_: own_code.Mine}}",
        "job_logging: {version: 1, handlers: {evil: {(): own_code.Mine}}}",
        "job_logging: {version: 1, formatters: {evil: {format: ext://own_code.Mine}}}",
        "launcher: {evil: {_target_: own_code.Mine}}",
        "sweeper: {params: {evil: {_target_: own_code.Mine}}}",
    ],
)
def test_a_config_file_of_somebody_else_makes_hydra_run_nothing(own, capsys, hydra):
    theirs = "defaults:\n  - train\n  - _self_\n  - override callbacks: [default, mine]"
    (own / "conf" / "theirs.yaml").write_text(f"{theirs}\nhydra:\n  {hydra}\n")
    assert "error: hydra." in refusal(capsys, own / "run", f"--config-dir={own / 'conf'}", "--config-name=theirs")
    assert not imported(own)
