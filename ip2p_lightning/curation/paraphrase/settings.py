"""The settings of ``ip2p-data prompts``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from ip2p_lightning.config.compose import CONF
from ip2p_lightning.config.type_hints import conforms, describe
from ip2p_lightning.errors import UserError, suggest

HELP = """
settings (those without a value here must be given):
  task=NAME[,NAME]     a task of conf/paraphrase.yaml, or a name of your own with about= and keywords=
  n=50                 training prompts of each task (source=file: all that survive, unless n is given)
  held_out=12          prompts split off for evaluation; `shared`: those that the shipped pools have in common
  source=endpoint      endpoint (an OpenAI-compatible URL: vLLM, Ollama, llama.cpp, OpenAI ...), file (a line a prompt)
  url=URL              the endpoint, e.g. http://127.0.0.1:8000/v1
  model=NAME           the language model, by its name at the endpoint
  key=NAME             environment variable that holds the endpoint's key
  file=FILE            the text file
  out=FILE.yaml        where to write; in conf/prompts/ it is a choice for prompts=; default TASK-paraphrases.yaml
  force=false          replace an existing file
  seed=0               of the sampling and the split
  about=TEXT keywords=A,B   what a task asks for, and words of which a prompt must have one
  tokenizer=DIR        counts CLIP tokens (an estimate without)
  encoder=DIR          a CLIP text encoder: a prompt must be near `about` (min_cosine); without, keywords decide
  style= temperature= top_p= max_new_tokens= per_round= rounds= max_tokens= min_words= near= min_cosine= template=
                       as in conf/paraphrase.yaml, or in config=FILE of the same form

examples:
  ip2p-data prompts task=cartoon n=50 url=http://localhost:8000/v1 model=qwen tokenizer=models/sd15 out=qwen.yaml
  ip2p-data prompts task=derain,denoise n=20 style="Write short commands." url=https://host/v1 model=m key=MY_KEY
  ip2p-data prompts task=cartoon source=file file=instructions.txt held_out=10
then, with the file in conf/prompts/: ip2p-train task=cartoon prompts=qwen
exit codes: 0 done, 2 usage, 3 too few prompts survived, 5 disk, 7 unsafe URL.
"""


@dataclass(frozen=True)
class Settings:
    """All settings; `HELP` and conf/paraphrase.yaml explain each."""

    template: str
    temperature: float
    top_p: float
    max_new_tokens: int
    per_round: int
    rounds: int
    max_tokens: int
    min_words: int
    near: float
    min_cosine: float
    tasks: Mapping[str, Any]
    style: str = ""
    task: str | None = None
    n: int | None = None
    held_out: int | str = 12
    source: str = "endpoint"
    model: str | None = None
    url: str | None = None
    key: str | None = None
    file: str | None = None
    out: str | None = None
    force: bool = False
    seed: int = 0
    about: str | None = None
    keywords: str | None = None
    tokenizer: str | None = None
    encoder: str | None = None


def read_settings(words: Sequence[str]) -> Settings:
    """The config with the command line's ``key=value`` words on top. Raises UserError."""
    hints, given = get_type_hints(Settings), {}
    known = [f.name for f in fields(Settings) if f.name != "tasks"] + ["config"]
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            raise UserError(f"unknown setting {word}{suggest(key, known)}; see ip2p-data prompts --help")
        given[key] = value
    file = Path(given.pop("config", CONF / "paraphrase.yaml")).expanduser()
    values = read_yaml(CONF / "paraphrase.yaml") | read_yaml(file)
    values |= {key: value if hints[key] in (str, str | None) else _scalar(value) for key, value in given.items()}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"{file}: unknown setting {key}{suggest(key, known)}")
        if not conforms(value, hints[key]):
            raise UserError(f"{key}={value}: expected {describe(hints[key])}")
    return Settings(**values)


def read_yaml(file: Path) -> dict[str, Any]:
    """A mapping from a YAML file. Raises UserError."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"config={file}: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(values, dict):
        raise UserError(f"config={file}: expected keys and values")
    return values


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def checked(settings: Settings) -> Settings:
    """`settings` with the default number of prompts. Raises UserError for invalid combinations."""
    needs = {"endpoint": ["url", "model"], "file": ["file"]}
    if settings.source not in needs:
        raise UserError(f"source={settings.source}: give endpoint or file")
    for key in ["task", *needs[settings.source]]:
        if not getattr(settings, key):
            raise UserError(f"{key} has no value; give {key}=... (see ip2p-data prompts --help)")
    if isinstance(settings.held_out, str) and settings.held_out != "shared":
        raise UserError(f"held_out={settings.held_out}: give a number, or shared")
    if settings.n is None and settings.source != "file":
        settings = replace(settings, n=50)
    for key in ("n", "per_round", "rounds", "max_tokens", "max_new_tokens"):
        if getattr(settings, key) is not None and getattr(settings, key) < 1:
            raise UserError(f"{key}={getattr(settings, key)}: give at least 1")
    if isinstance(settings.held_out, int) and settings.held_out < 0:
        raise UserError(f"held_out={settings.held_out}: give 0 or more")
    for key, low, high in (("temperature", 0, 10), ("top_p", 0, 1), ("near", 0, 1)):
        if not low < getattr(settings, key) <= high:
            raise UserError(f"{key}={getattr(settings, key)}: give a number above {low}, at most {high}")
    return settings
