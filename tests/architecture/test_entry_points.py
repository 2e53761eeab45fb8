"""The commands: a page of help each, ``python -m`` as well, exit codes, and a start that does not load the world."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ip2p_lightning.config.compose import CONF
from ip2p_lightning.errors import exit_code
from ip2p_lightning.runs import checkpoint

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
SCRIPTS = {name: target.partition(":")[0] for name, target in PROJECT["scripts"].items()}
ARGPARSE = [f"ip2p-{name}" for name in ("data", "evaluate", "edit", "export", "report", "inspect")]


def run(*words, cwd=None, **environment):
    settings = {"capture_output": True, "text": True, "cwd": cwd, "timeout": 120, "env": os.environ | environment}
    done = subprocess.run([sys.executable, *words], **settings)
    return done.returncode, done.stdout, done.stderr


def main_of(script):
    return importlib.import_module(SCRIPTS[script]).main


def test_the_scripts_are_these_and_can_be_called():
    assert set(ARGPARSE) | {"ip2p-train"} <= set(SCRIPTS)
    assert all(callable(main_of(name)) for name in SCRIPTS)


@pytest.mark.parametrize("script", ARGPARSE)
def test_help_is_a_page_with_examples(script, capsys):
    try:
        code = main_of(script)(["--help"])
    except SystemExit as ended:
        code = ended.code
    page = capsys.readouterr().out
    assert not code and page.startswith("usage:")
    assert len([line for line in page.splitlines() if line.strip()]) >= 10 and page.count(script) >= 3, page
    assert any(line.strip().startswith(f"{script} ") for line in page.splitlines()[1:]), page  # an example


@pytest.mark.parametrize("words", [["--help"], ["task=derain", "-h"]])
def test_the_help_of_training_is_a_short_page_with_examples_and_groups_but_no_prompts(tmp_path, words):
    code, page, _ = run("-m", "ip2p_lightning.cli.train", *words, cwd=tmp_path)
    assert code == 0 and page.startswith("ip2p-train: train a model") and len(page.splitlines()) <= 60
    assert page.count("\n  ip2p-train ") >= 5 and "make it a cartoon" not in page.lower()
    for group in (CONF / name for name in ("task", "model", "trainer", "prompts", "hydra/launcher")):
        members = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
        assert f"\n  {group.relative_to(CONF)}: {members}\n" in page
    assert "-cn first_light" in page and "--cfg job" in page and "Exit codes" in page
    assert not list(tmp_path.iterdir())


QUICK = ["train --help", "train --version", "train -sc query=bash", "train --cfg job", "inspect --help", "data --help"]


@pytest.mark.parametrize("words", [*QUICK, "data build --help", "data --version", "inspect --version"])
def test_help_completion_and_version_do_not_wait_for_torch(words, tmp_path):
    command, *rest = words.split()
    line = {"COMP_LINE": "ip2p-train task=de", "COMP_POINT": "18"}
    code, out, err = run("-X", "importtime", "-m", f"ip2p_lightning.cli.{command}", *rest, cwd=tmp_path, **line)
    assert code == 0 and not re.search(r"\| +(torch|numpy|pandas|lightning)$", err, flags=re.M), err[-2000:]
    if "version" in words:
        assert out == f"ip2p-lightning {PROJECT['version']}\n"
    if "query" in words:
        assert {"task=deblur", "task=denoise", "task=derain"} <= set(out.split())
    if "build" in words:
        assert len(out.splitlines()) <= 60 and "on_bad: fail  " in out and "prompts: paraphrase" in out


def test_a_page_that_nobody_reads_on_is_no_bug_and_another_broken_pipe_is(tmp_path):
    words = [sys.executable, "-m", "ip2p_lightning.cli.train", "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")

    def lose_a_worker():
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        exit_code(lose_a_worker)


@pytest.mark.parametrize("script", ARGPARSE)
def test_a_wrong_word_is_one_line_and_exit_code_2(script, refused):
    code, line = refused(main_of(script), "--no-such-option")
    assert code == 2 and any(word in line for word in ("--no-such-option", "required", "choose from"))


@pytest.mark.parametrize("script", ["ip2p-evaluate", "ip2p-export", "ip2p-inspect"])
def test_what_is_not_a_run_is_refused(script, refused, tmp_path):
    words = {"ip2p-export": [tmp_path, tmp_path / "out"], "ip2p-inspect": ["digest", tmp_path]}.get(script, [tmp_path])
    code, line = refused(main_of(script), *words)
    assert code == 2 and str(tmp_path) in line
    assert not list(tmp_path.iterdir())


def test_python_m_is_the_same_command(tmp_path):
    code, out, err = run("-m", "ip2p_lightning.cli.inspect", "verify", str(tmp_path / "none"))
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1


def test_inspect_digests_and_verifies(tiny_run, capsys, tmp_path):
    inspect = main_of("ip2p-inspect")
    assert inspect(["digest", str(tiny_run)]) == 0
    first = capsys.readouterr().out
    assert [line.split()[1] for line in first.splitlines()[:4]] == ["raw", "ema", "optimizer", "schedule"]
    assert inspect(["verify", str(tiny_run)]) == 0
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    newest = checkpoint.checkpoints(copy)[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    assert inspect(["verify", str(copy)]) == 6
    said = capsys.readouterr()
    assert str(newest) in said.out and said.err.startswith("error: 1 of ")
    (tmp_path / "notes.txt").write_text("no sums beside it")
    assert inspect(["verify", str(tmp_path / "notes.txt")]) == 2
    assert "nothing to verify" in capsys.readouterr().err


def test_libraries_are_loaded_late():
    heavy = "{'transformers', 'datasets', 'timm', 'matplotlib', 'pandas', 'hydra', 'skimage'}"
    parts = "data.image data.prompts diffusion.samplers networks.autoencoder networks.unet errors rng system.files"
    imports = "; ".join(f"import ip2p_lightning.{part}" for part in parts.split())
    code, out, err = run("-c", f"import sys; {imports}; print(sorted({heavy} & set(sys.modules)))")
    assert (code, out.strip()) == (0, "[]"), err
