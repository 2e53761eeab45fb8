"""Remedies work when pasted: what a message prints goes through the shell's and Hydra's parsers, and means the same."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import ip2p_lightning
from ip2p_lightning.config import hydra_errors
from ip2p_lightning.config.compose import composed
from ip2p_lightning.config.quoting import notes_on_commas, typed
from ip2p_lightning.errors import UserError
from tests.support.configs import config_of

STRANGE = [
    "it's",
    'say "it"',
    "a,b",
    "a=b",
    "{x}",
    "[x]",
    "x: y",
    "$HOME",
    "`ls`",
    "!!",
    "\\",
    "a\\'b",
    "雨を消す",
    "дождь",
]
STRANGE += [
    "true",
    "null",
    "1e3",
    "",
    " x ",
    "a#b",
    "~x",
    "-x",
    "(x)",
    "x;y",
    "a&b|c",
    "don't, won't",
    "*.png",
    "🙂",
    "[a",
]
STRANGE += [
    "range(1,3)",
    "/a b/c=d",
    "100 %",
    "\\${x}",
    "a\\",
    "'",
    '"',
    "x@y",
    "1,2",
    "a'b\"c`d",
    "${x}",
    "مرحبا",
    "a\\\\${x}",
]


def pasted(line: str, **more):
    """The config that a command line of overrides composes, as plain data."""
    return OmegaConf.to_container(composed(shlex.split(line), **more), resolve=False)


def test_every_value_is_read_back_as_it_was():
    values = {f"text{i}": text for i, text in enumerate(STRANGE)}
    values |= {
        "all": STRANGE,
        "none": None,
        "yes": True,
        "number": 1.5,
        "small": 1e-5,
        "node": {"a": [1, "it's"]},
        "empty": [],
    }
    found = pasted(" ".join(typed(f"+probe.{key}", value) for key, value in values.items()))["probe"]
    read = OmegaConf.to_container(OmegaConf.create(found), resolve=True)  # an escaped ${ is text
    assert read == values
    assert typed("data.root", "pairs") == "data.root=pairs" and typed("a", "make it red") == "'a=make it red'"


BROKEN = {
    "task.name=it's": "it's",
    "task.name=/a=b/c": "/a=b/c",
    "task.name={red}": "{red}",
    "task.name='it's'": "it's",
    "task.name=50 %, don't!": "50 %, don't!",
    "+probe.list=[make it red: now, don't]": ["make it red: now", "don't"],
    "+probe.list=[a=b, 'c, d', 3, 雨=水]": ["a=b", "c, d", 3, "雨=水"],
    "+probe.list={cartoon=2,rain=it's}": {"cartoon": 2, "rain": "it's"},
    "task.name=a,b": "a,b",
    "task.name=make it red, please": "make it red, please",
}


@pytest.mark.parametrize(("word", "value"), BROKEN.items())
def test_what_cannot_be_read_is_named_with_words_that_can(word, value):
    with pytest.raises(UserError) as refusal:
        config_of("task=derain", word)
    line, (key, _, _) = str(refusal.value), word.lstrip("+").partition("=")
    assert line.startswith(word) and "\n" not in line
    remedy = re.search(r"(?:shell: |one value is )(.*?)(?:, a list (.*))?$", line)
    found = OmegaConf.create(pasted(f"task=derain {remedy[1]}"))
    assert OmegaConf.to_container(OmegaConf.create({"v": OmegaConf.select(found, key)})) == {"v": value}
    assert remedy[2] is None or len(OmegaConf.select(OmegaConf.create(pasted(f"task=derain {remedy[2]}")), key)) == 2


@pytest.mark.parametrize("word", ["seed", "3=", "my key=it's"])
def test_what_is_no_override_is_told_how_one_looks(word):
    with pytest.raises(UserError, match=r"is not GROUP=MEMBER or KEY=VALUE, such as trainer\.max_steps=100"):
        config_of(word)


def test_commas_that_divide_an_instruction_are_told():
    told = notes_on_commas(
        ["task.prompts.prompts=[make it red, please]", "seed=1", "~unet.lora", "a.held_out=['a','b']"]
    )
    assert len(told) == 1 and "2 instructions: make it red | please" in told[0]
    remedy = re.search(r"if it is one: (.*)\)$", told[0])[1]
    assert pasted(f"task=own {remedy}")["task"]["prompts"]["prompts"] == ["make it red, please"]
    assert notes_on_commas([shlex.split(remedy)[0], "prompts.derain.prompts=[one]", "a.prompts=b,c"]) == []
    assert len(notes_on_commas(["prompts.derain.prompts=[don, t]", "task.prompts.held_out=[x, 'y, z']"])) == 2


ROOMS = ("config", "training", "runs", "data", "sweeps", "networks", "diffusion", "editing")
ADVICE = re.compile(
    r"(?:use|give|set|with|try|or|and|choose|need|do|;) '?((?:hydra/)?[a-z_]\w*(?:[./]\w+)*)=\[?[\w.\-+]+"
)


def advised() -> dict[str, str]:
    """Keys in the advice of the package's messages, with the text that gives it."""
    found = {}
    for path in (p for room in ROOMS for p in (Path(ip2p_lightning.__file__).parent / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                found |= dict.fromkeys(ADVICE.findall(node.value), node.value)
    return found


def test_advice_names_keys_as_they_are_typed():
    sd = ["model=local", "model.path=/x", "unet=sd_lora", "logger=wandb", "callbacks=[profiler]"]
    more = ["trainer=ddp", "task=cartoon_whitebox", "data=folder"]
    known = {key for words in ([], sd, more, ["task=own"]) for key in hydra_errors._keys(words)} | {"task.make.device"}
    known |= {"hydra/launcher", "hydra/sweeper"}
    assert len(advised()) > 15
    assert not {key: text for key, text in advised().items() if key not in known}
