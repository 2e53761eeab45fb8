"""From an exception to one line on stderr and an exit code."""

from __future__ import annotations

import functools
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ip2p_lightning.errors import StorageError, UserError, suggest

INTERRUPTED, UNREAD = 130, 141  # 128 + SIGINT, + SIGPIPE
INTERRUPTED_LINE = "interrupted; the same command continues from the last checkpoint"
_DISK = (13, 17, 20, 28, 30, 122)  # permission, a file in a folder's place (2), no space, read-only, quota


def exit_code(action: Callable[[], int]) -> int:
    """Run `action`; a UserError becomes one line and its code, an interrupt 130; a bug keeps its traceback.

    Hydra's instantiate wraps what a constructor raised: the cause is what counts. Where nobody reads on, as behind
    ``| head``, there is nothing to say, and the code is a shell's for that.
    """
    try:
        try:
            return action()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_left():
            raise
        return UNREAD
    except KeyboardInterrupt:
        print(INTERRUPTED_LINE, file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        known = _known(error)
        if known is None or os.environ.get("IP2P_TRACEBACK") == "1":
            raise
        print(f"error: {' '.join(str(known).split())}", file=sys.stderr)
        return known.code


def _reader_left() -> bool:
    """Whether it is stdout that nobody reads (and no pipe between processes); then let the rest of it go nowhere."""
    out = sys.stdout.fileno()
    poll = select.poll()
    poll.register(out, 0)
    left = any(told & select.POLLERR for _, told in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return left


def outcome(error: BaseException) -> tuple[int, str]:
    """Exit code and one line for what ended a run: the refusal that a library may have wrapped, else the exception."""
    cause = root(error)
    code = INTERRUPTED if isinstance(cause, KeyboardInterrupt) else getattr(cause, "code", 1)
    return code if isinstance(code, int) else 1, f"{type(cause).__name__}: {cause}".splitlines()[0]


def root(error: BaseException) -> BaseException:
    """The refusal that a library has wrapped (Hydra what a constructor raised), or else the exception itself."""
    return _known(error) or error


def _known(error: BaseException | None) -> UserError | None:
    """The UserError in a chain of exceptions; a full disk counts as one wherever it shows."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, UserError):
            return error
        if isinstance(error, OSError) and error.errno in _DISK:
            return StorageError(f"{error.filename or 'file'}: {error.strerror}")
        error = error.__cause__ or error.__context__
    return None


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
    from ip2p_lightning.config import CONF

    for word in words:
        group, _, value = word.lstrip("+").partition("=")
        if (CONF / group).is_dir() and value not in _members(group):
            return f"{group}={value}: no such member; known: {', '.join(_members(group))}"
    return found.group(0)


def _to_be_quoted(found: re.Match[str], words: Sequence[str]) -> str:
    key, _, value = next((w for w in words if w.startswith(found.group(1))), found.group(1)).partition("=")
    return f"{key}={value} cannot be read as it is; quote the value, once more for the shell: \"{key}='{value}'\""


def _bad_value(found: re.Match[str], words: Sequence[str]) -> str:
    return found.group(0)


_WORDINGS: tuple[tuple[str, Callable[[re.Match[str], Sequence[str]], str]], ...] = (
    (r"Could not override '([^']+)'", _unknown_key),
    (r"Could not append to config\. An item is already at '([^']+)'", _unknown_key),
    (r"Could not delete from config\. '([^']+)'", _unknown_key),
    (r"Could not find '([^']+)'", _unknown_member),
    (r"Cannot find primary config '([^']+)'", _unknown_member),
    (r"Config group override must be a string.*", _not_a_member),
    (r"Error parsing override '[^']*'", _bad_value),
    (r"LexerNoViableAltException: (\S*)", _to_be_quoted),
    (r"Error merging override[^\n]*", _bad_value),
)


def _as_typed(key: str, words: Sequence[str]) -> str:
    for word in words:
        if re.split("=", word.lstrip("+~"), maxsplit=1)[0] == key:
            return word.lstrip("+")
    return key


def _keys(words: Sequence[str]) -> list[str]:
    from ip2p_lightning.config import CONF

    return _keys_of(tuple(w for w in words if "=" in w and (CONF / w.partition("=")[0]).is_dir()))


@functools.cache
def _keys_of(groups: tuple[str, ...]) -> list[str]:
    """Every dotted key and group of the default config: what a typo may have meant."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from ip2p_lightning.config import CONF

    GlobalHydra.instance().clear()
    for chosen in (list(groups), []):
        try:
            with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
                config = OmegaConf.to_container(compose("train", chosen, return_hydra_config=True), resolve=False)
            return [p.name for p in CONF.iterdir() if p.is_dir()] + list(_dotted(config))
        except Exception:  # the groups may hold the mistake themselves
            continue
    return []


def _dotted(node: object, path: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [path]
    inner = [key for k, v in node.items() for key in _dotted(v, f"{path}.{k}" if path else str(k))]
    return ([path] if path else []) + inner


def _members(group: str) -> list[str]:
    from ip2p_lightning.config import CONF

    return sorted(p.stem for p in (Path(CONF) / group).glob("*.yaml"))
