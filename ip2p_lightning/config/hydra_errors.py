"""Rewords Hydra's error messages: the key, the value, a suggestion."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ip2p_lightning.config.compose import CONF, EXPERIMENTS, composed
from ip2p_lightning.config.quoting import mended, shell
from ip2p_lightning.config.walk import walk
from ip2p_lightning.errors import UserError, suggest, user_error


def explain(error: Exception, words: Sequence[str]) -> Exception:
    """A UserError with a clear message for one of Hydra's exceptions; any other exception is returned unchanged."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    ours = isinstance(error, HydraException | OmegaConfBaseException) or "override" in str(error)[:40]
    if user_error(error) is not None or not ours:
        return error
    if isinstance(error, OverrideParseException):
        return UserError(_unreadable(error.override))
    text = str(error)
    for pattern, message in _MESSAGES:
        found = re.search(pattern, text)
        if found:
            return UserError(message(found, words))
    first, *rest = text.strip().splitlines()
    return UserError(" ".join([first, *rest[:1]]) if first.endswith(":") else first)


def _unknown_key(found: re.Match[str], words: Sequence[str]) -> str:
    key = found.group(1)
    known = [k for k in _keys(words) if k.startswith("hydra") == key.startswith("hydra")]
    return f"unknown key {_as_typed(key, words)}{suggest(key, known)}"


def _unknown_member(found: re.Match[str], words: Sequence[str]) -> str:
    group, _, member = found.group(1).rpartition("/")
    if not group:
        known = ["train", *experiments()]
        return f"no config named '{member}'{suggest(member, known)}; known: {', '.join(known)}"
    known = members(group)
    return f"{group}={member}: no such member{suggest(member, known)}; known: {', '.join(known) or 'none'}"


def _not_a_member(found: re.Match[str], words: Sequence[str]) -> str:
    for word in words:
        group, _, value = word.lstrip("+").partition("=")
        if group and (CONF / group).is_dir() and value not in members(group):
            return f"{group}={value}: no such member; known: {', '.join(members(group))}"
    return found.group(0)


def _unreadable(word: str) -> str:
    remedy = mended(word)
    if remedy is None:
        return f"{word} is not GROUP=MEMBER or KEY=VALUE, such as trainer.max_steps=100"
    return f"{word} cannot be read; quote the value for Hydra and the shell: {remedy}"


def _divided(found: re.Match[str], words: Sequence[str]) -> str:
    """A value with a comma in it, outside of a sweep."""
    key, _, text = found[1].partition("=")
    both = f"one value is {mended(found[1])}, a list {shell(f'{key}=[{text}]')}"
    return f"{found[1]}: the comma makes a sweep, which needs -m; {both}"


def _no_folder(found: re.Match[str], words: Sequence[str]) -> str:
    own = ", ".join(f"-cn {name}" for name in experiments())
    return f"--config-dir: no folder {found[1]}; the package's own experiments need none: {own}"


_MESSAGES: tuple[tuple[str, Callable[[re.Match[str], Sequence[str]], str]], ...] = (
    (r"Could not (?:override|append to config\. An item is already at|delete from config\.) '([^']+)'", _unknown_key),
    (r"(?:Could not find|Cannot find primary config) '([^']+)'", _unknown_member),
    (r"Config group override must be a string.*", _not_a_member),
    (r"Ambiguous value for argument '(.*)'", _divided),
    (r"Sweep parameters '(.*)' requires --multirun", _divided),
    (r"Additional config directory '(.*)' not found", _no_folder),
)


def _as_typed(key: str, words: Sequence[str]) -> str:
    return next((word.lstrip("+") for word in words if word.lstrip("+~").partition("=")[0] == key), key)


def _keys(words: Sequence[str]) -> list[str]:
    """Every group and dotted key of the config with these groups, or else of the default one."""
    from omegaconf import OmegaConf

    groups = [w for w in words if "=" in w and (CONF / w.partition("=")[0]).is_dir()]
    for chosen in (groups, []):
        try:
            config = OmegaConf.to_container(composed(chosen, return_hydra_config=True), resolve=False)
            keys = [path for path, _ in walk(config) if "[" not in path]
            return [p.name for p in CONF.iterdir() if p.is_dir()] + keys
        except Exception:  # the error may be in the groups
            continue
    return []


def members(group: str) -> list[str]:
    """Names of the configs in a group of ``conf/``."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def experiments() -> list[str]:
    """Names of the package's experiments, for ``--config-name``."""
    return sorted(p.stem for p in EXPERIMENTS.glob("*.yaml"))
