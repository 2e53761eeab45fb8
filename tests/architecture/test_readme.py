"""What the README and the docs tell people to type is accepted by the commands."""

import re
import shlex
from pathlib import Path

import pytest

from ip2p_lightning.cli import edit, evaluate
from tests.support.configs import config_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(program: str) -> list[str]:
    """Lines in code blocks that begin with `program`, continued lines joined, comments cut."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh|console)?\n(.*?)```", page.read_text(), flags=re.S):
            lines = block.replace("\\\n", " ").splitlines()
            found += [re.sub(r"\s+#.*", "", line.strip().removeprefix("$ ")) for line in lines]
    return sorted({line for line in found if line.split()[:1] == [program]})


def without_sweep(words: list[str]) -> list[str]:
    """One job of a multirun: the first of each word's alternatives."""
    words = [w for w in words if w not in ("-m", "--multirun") and not w.startswith("hydra")]
    words = [w for w in words if not re.search(r"=(tag|interval|choice|range)\(", w)]
    return [w if re.search(r"[\[({'\"]", w) else w.split(",")[0] for w in words]


@pytest.mark.parametrize("line", [c for c in commands("ip2p-train") if "-c" not in c.split() and "-cd" not in c])
def test_training_commands_compose(line):
    config_of(*without_sweep(shlex.split(line)[1:]))


@pytest.mark.parametrize("line", commands("ip2p-edit"))
def test_edit_commands_parse(line):
    edit.parser().parse_intermixed_args(shlex.split(line)[1:])


@pytest.mark.parametrize("line", commands("ip2p-evaluate"))
def test_evaluate_commands_parse(line):
    evaluate.parser().parse_args(shlex.split(line)[1:])


def test_the_readme_opens_with_a_picture_and_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert text.index("](docs/demo.png)") < text.index("make demo") < text.index("make test") < 2500
    for target in ("demo", "test"):
        assert re.search(f"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
