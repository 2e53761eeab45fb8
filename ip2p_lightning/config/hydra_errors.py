"""From an exception to one line on stderr and an exit code."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ip2p_lightning.config.walk import walk
from ip2p_lightning.errors import UserError, _known, suggest


def explain(error: Exception, words: Sequence[str]) -> Exception:
    """Word Hydra's refusals like ours: the key, the value, a suggestion. Anything else is returned as it is."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ours = isinstance(error, HydraException | OmegaConfBaseException) or "override" in str(error)[:40]
    if _known(error) is not None or not ours:
        return error
    text = str(error)
    for pattern, word_it in _WORDINGS:
        found = re.search(pattern, text)
        if found:
            return UserError(word_it(found, words))
    first, *rest = text.strip().splitlines()
    return UserError(" ".join([first, *rest[:1]]) if first.endswith(":") else first)


def _unknown_key(found: re.Match[str], words: Sequence[str]) -> str:
    key = found.group(1)
    known = [k for k in _keys(words) if k.startswith("hydra") == key.startswith("hydra")]
    return f"unknown key {_as_typed(key, words)}{suggest(key, known)}"


def _unknown_member(found: re.Match[str], words: Sequence[str]) -> str:
    group, _, member = found.group(1).rpartition("/")
    if not group:
        return f"no config named '{member}'{suggest(member, _members(''))}; known: {', '.join(_members(''))}"
    members = _members(group)
    return f"{group}={member}: no such member{suggest(member, members)}; known: {', '.join(members) or 'none'}"


def _not_a_member(found: re.Match[str], words: Sequence[str]) -> str:
    from ip2p_lightning.config.compose import CONF

    for word in words:
        group, _, value = word.lstrip("+").partition("=")
        if (CONF / group).is_dir() and value not in _members(group):
            return f"{group}={value}: no such member; known: {', '.join(_members(group))}"
    return found.group(0)


def _to_be_quoted(found: re.Match[str], words: Sequence[str]) -> str:
    key, _, value = next((w for w in words if w.startswith(found.group(1))), found.group(1)).partition("=")
    return f"{key}={value} cannot be read as it is; quote the value, once more for the shell: \"{key}='{value}'\""


_WORDINGS: tuple[tuple[str, Callable[[re.Match[str], Sequence[str]], str]], ...] = (
    (r"Could not (?:override|append to config\. An item is already at|delete from config\.) '([^']+)'", _unknown_key),
    (r"(?:Could not find|Cannot find primary config) '([^']+)'", _unknown_member),
    (r"Config group override must be a string.*", _not_a_member),
    (r"LexerNoViableAltException: (\S*)", _to_be_quoted),
)


def _as_typed(key: str, words: Sequence[str]) -> str:
    for word in words:
        if re.split("=", word.lstrip("+~"), maxsplit=1)[0] == key:
            return word.lstrip("+")
    return key


def _keys(words: Sequence[str]) -> list[str]:
    from ip2p_lightning.config.compose import CONF

    return _keys_of(tuple(w for w in words if "=" in w and (CONF / w.partition("=")[0]).is_dir()))


@functools.cache
def _keys_of(groups: tuple[str, ...]) -> list[str]:
    """Every dotted key and group of the default config: what a typo may have meant."""
    from omegaconf import OmegaConf

    from ip2p_lightning.config.compose import CONF, composed

    for chosen in (groups, ()):
        try:
            config = OmegaConf.to_container(composed(chosen, return_hydra_config=True), resolve=False)
            keys = [path for path, _ in walk(config) if "[" not in path]
            return [p.name for p in CONF.iterdir() if p.is_dir()] + keys
        except Exception:  # the groups may hold the mistake themselves
            continue
    return []


def _members(group: str) -> list[str]:
    from ip2p_lightning.config.compose import CONF

    return sorted(p.stem for p in (Path(CONF) / group).glob("*.yaml"))
