"""Words to paste into a shell: quoted for Hydra's grammar, then for the shell. Messages print their remedies so."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

_ITEM = re.compile(r"""\s*('(?:[^'\\]|\\.)*'(?=\s*(?:,|$))|"(?:[^"\\]|\\.)*"(?=\s*(?:,|$))|[^,]*?)\s*(?:,|$)""")
_INSTRUCTIONS = re.compile(r"(^|\.)(prompts|held_out)$")


def typed(key: str, value: Any) -> str:
    """``KEY=VALUE`` as one types it: read by the shell and by Hydra, it is the plain `value` again."""
    return shell(f"{key}={_written(value)}")


def shell(word: str) -> str:
    """`word` for a shell; around single quotes in double ones, where nothing else in it means something there."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!\n') else shlex.quote(word)


def quoted(text: str) -> str:
    """`text` as a quoted value in Hydra's grammar."""
    from hydra.core.override_parser.types import Quote, QuotedString

    escaped = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)
    return QuotedString(escaped, Quote.single).with_quotes()


def mended(word: str) -> str | None:
    """A ``KEY=VALUE`` that Hydra cannot read, or takes for a sweep, with its strings quoted; None: the key is wrong."""
    key, equals, text = word.partition("=")
    found = f"{key}={_mended(text)}"
    return shell(found) if equals and _parsed(found) is not None else None


def notes_on_commas(words: Iterable[str]) -> list[str]:
    """A line for each list of instructions that was typed without quotes, so that its commas divide it."""
    from hydra.core.override_parser.types import QuotedString

    notes = []
    for word in words:
        key, _, text = word.partition("=")
        parsed = _parsed(word) if _INSTRUCTIONS.search(key) else None
        items = parsed._value if parsed is not None and isinstance(parsed._value, list) else []
        if len(items) > 1 and not all(isinstance(item, QuotedString) for item in items):
            shown = " | ".join(getattr(item, "text", str(item)) for item in items)
            one = shell(f"{key}=[{quoted(text.strip()[1:-1])}]")
            notes.append(f"{key}: {len(items)} instructions: {shown} (commas separate them; if it is one: {one})")
    return notes


def _written(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, str):
        bare = _parsed(f"k={{a:[{value},{value}]}}")  # anywhere, also in a list
        plain = bare is not None and bare._value == {"a": [value, value]} and "${" not in value
        return value if plain else quoted(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _mended(text: str) -> str:
    if _parsed(f"k={text}") is not None:
        return text
    inner = text.strip()[1:-1]
    items = [item for item in _ITEM.findall(inner) if item]
    if text.strip().startswith("[") and text.strip().endswith("]"):
        return "[" + ",".join(map(_mended, items)) + "]"
    pairs = [re.split(r"\s*[:=]\s*", item, maxsplit=1) for item in items]
    if text.strip().startswith("{") and text.strip().endswith("}") and all(len(pair) == 2 for pair in pairs):
        return "{" + ",".join(f"{key}:{_mended(value)}" for key, value in pairs) + "}"
    whole = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""  # quotes around what holds such a quote
    return quoted(text[1:-1] if whole else text)


def _parsed(word: str) -> Any:
    """Hydra's override of one value; None for a sweep and for what Hydra cannot read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        found = OverridesParser.create().parse_override(word)
    except HydraException:
        return None
    return None if found.is_sweep_override() else found
