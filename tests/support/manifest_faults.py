"""Manifests with one thing wrong in each, what is wrong, and where."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.support.material import rained, save, scene

ROWS = 12
Records = list[dict[str, Any]]


class Fault(NamedTuple):
    """A manifest."""

    content: bytes
    ending: str
    kind: str
    line: int | None
    """Where it is wrong; None: it is not."""
    field: str
    """What is wrong there; "": the line as a whole."""


def images(root: Path) -> Path:
    """The files that every manifest names."""
    for i in range(ROWS):
        save(root / f"in{i}.png", rained(scene("manifest", i, size=(16, 16)), i))
        save(root / f"out{i}.png", scene("manifest", i, size=(16, 16)))
    return root


def fault(number: int, rng: np.random.Generator) -> Fault:
    """The `number`-th manifest: the kinds take turns, on a line and in a field of the generator's choice."""
    kinds = [(kind, ending) for kind in KINDS for ending in (".jsonl", ".csv") if ending in KINDS[kind][1]]
    kind, ending = kinds[number % len(kinds)]
    records, row = good(), int(rng.integers(1, ROWS))
    field = KINDS[kind][0](records, row, rng)
    lines = _jsonl(records) if ending == ".jsonl" else _csv(records)
    line = row + (1 if ending == ".jsonl" else 2)
    content, whole = _spoiled(kind, lines, line, rng)
    return Fault(content, ending, kind, None if kind in HARMLESS else line, "" if whole else field)


def good() -> Records:
    """Nothing wrong."""
    return [
        {"id": f"pair {i}", "original": f"in{i}.png", "edited": f"out{i}.png", "prompt": f"less rain {i}", "split": s}
        for i, s in enumerate(["train"] * (ROWS - 2) + ["val", "test"])
    ]


# ---- faults of a record: they return the field ----


def _nothing(records: Records, row: int, rng: np.random.Generator) -> str:
    return ""


def _missing_key(records: Records, row: int, rng: np.random.Generator) -> str:
    field = str(rng.choice(["original", "edited"]))
    del records[row][field]
    return field


def _put(fields: str, *values: Any) -> Callable[[Records, int, np.random.Generator], str]:
    """One of the values in one of the fields."""

    def put(records: Records, row: int, rng: np.random.Generator) -> str:
        field = str(rng.choice(fields.split()))
        records[row][field] = values[int(rng.integers(len(values)))]
        return field

    return put


def _strange(records: Records, row: int, rng: np.random.Generator) -> str:
    _put("prompt", "{braces} %s {{ jinja }}", "اجعلها كرتونا", "🎨🖌️ paint", "a,b;c'd", "e\u0301")(records, row, rng)
    return ""


def _twin(records: Records, row: int, rng: np.random.Generator) -> str:
    records[row]["id"] = records[int(rng.integers(row))]["id"]
    return "id"


def _accents(records: Records, row: int, rng: np.random.Generator) -> str:
    name = "Ärger é"
    records[int(rng.integers(row))]["id"] = unicodedata.normalize("NFC", name)
    records[row]["id"] = unicodedata.normalize("NFD", name)
    return "id"


def _pair_twice(records: Records, row: int, rng: np.random.Generator) -> str:
    for record in records:
        del record["id"]
    records[row] |= {k: records[int(rng.integers(row))][k] for k in ("original",)}
    other = next(r for r in records if r["original"] == records[row]["original"])
    records[row]["edited"] = other["edited"]
    return "id"


_SIDES = "original edited"
_BOTH = (".jsonl", ".csv")
KINDS: dict[str, tuple[Callable[[Records, int, np.random.Generator], str], tuple[str, ...]]] = {
    "good": (_nothing, _BOTH),
    "byte order mark": (_nothing, _BOTH),
    "CRLF": (_nothing, _BOTH),
    "blank lines": (_nothing, (".jsonl",)),
    "strange prompts": (_strange, _BOTH),
    "cut line": (_nothing, _BOTH),
    "bad JSON": (_nothing, (".jsonl",)),
    "NaN": (_nothing, (".jsonl",)),
    "deep nesting": (_nothing, (".jsonl",)),
    "huge number": (_nothing, (".jsonl",)),
    "no object": (_nothing, (".jsonl",)),
    "raw NUL": (_nothing, (".jsonl",)),
    "10 MB line": (_nothing, _BOTH),
    "10 MB of open brackets": (_nothing, (".jsonl",)),
    "not UTF-8": (_nothing, _BOTH),
    "quote left open": (_nothing, (".csv",)),
    "a field too many": (_nothing, (".csv",)),
    "wrong type": (_put("original edited prompt split id", ["a"], {"a": 1}, True, 2.5), (".jsonl",)),
    "missing key": (_missing_key, (".jsonl",)),
    "empty field": (_put(_SIDES, "", " ", "\t  "), _BOTH),
    "no such file": (_put(_SIDES, "none.png", "no/such.png", "x" * 5000, ".", "in0.png/", "ä\u0301.png"), _BOTH),
    "path outside": (
        _put(_SIDES, "../in0.png", "/dev/zero", "~/x.png", "C:\\x.png", "a/../../b.png", "in\0.png"),
        _BOTH,
    ),
    "no such split": (_put("split", "Train", "dev", "validation", "0"), _BOTH),
    "no sha256": (_put("original_sha256", "0" * 63, "g" * 64, "md5"), _BOTH),
    "sha256 of another type": (_put("edited_sha256", 5, ["0" * 64], True), (".jsonl",)),
    "id twice": (_twin, _BOTH),
    "id twice in NFC and NFD": (_accents, _BOTH),
    "pair twice": (_pair_twice, _BOTH),
    "NUL in a prompt": (_put("prompt", "take\0 it"), _BOTH),
    "half a character": (_put("original prompt id", "half \ud83d"), (".jsonl",)),
}
HARMLESS = ("good", "byte order mark", "CRLF", "blank lines", "strange prompts")
TWINS = ("id twice", "id twice in NFC and NFD", "pair twice")
BUILD_ONLY = ("no sha256", "sha256 of another type")  # a training run does not read the hashes


# ---- text ----


def _jsonl(records: Records) -> list[bytes]:
    halves = [any("half" in str(value) for value in record.values()) for record in records]
    return [json.dumps(record, ensure_ascii=half).encode() for record, half in zip(records, halves, strict=True)]


def _csv(records: Records) -> list[bytes]:
    out = io.StringIO()
    fields = list(dict.fromkeys(key for record in records for key in record))
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode().splitlines()


def _spoiled(kind: str, lines: list[bytes], line: int, rng: np.random.Generator) -> tuple[bytes, bool]:
    """The file, and whether it is a line as a whole that was spoiled."""
    i = line - 1
    plain = b"\n".join(lines) + b"\n"
    if kind in ("byte order mark", "CRLF", "blank lines"):
        join = {"byte order mark": b"\n", "CRLF": b"\r\n", "blank lines": b"\n\n \n"}[kind]
        return (b"\xef\xbb\xbf" if kind == "byte order mark" else b"") + join.join(lines) + join, False
    if kind not in _LINES:
        return plain, False
    lines[i] = _LINES[kind](lines[i], rng)
    return b"\n".join(lines) + b"\n", True


_LINES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "cut line": lambda line, rng: line[: int(rng.integers(1, 12))],
    "bad JSON": lambda line, rng: (line.replace(b'"', b"'"), line[:-1] + b",}", line + b"}", b"//" + line)[
        rng.integers(4)
    ],
    "NaN": lambda line, rng: line[:-1] + b', "weight": ' + (b"NaN", b"Infinity", b"-Infinity")[rng.integers(3)] + b"}",
    "deep nesting": lambda line, rng: b'{"original": ' + b"[" * int(rng.integers(5_000, 100_000)),
    "huge number": lambda line, rng: line[:-1] + b', "weight": ' + b"9" * 10_000 + b"}",
    "no object": lambda line, rng: [b"[1, 2]", b'"text"', b"17", b"null"][int(rng.integers(4))],
    "raw NUL": lambda line, rng: line.replace(b".png", b"\0.png"),
    "10 MB line": lambda line, rng: line.replace(b"rain", b"rain" * 2_500_000),
    "10 MB of open brackets": lambda line, rng: b"[" * 10_000_000,
    "not UTF-8": lambda line, rng: line.replace(b"rain", b"r\xe4in"),
    "quote left open": lambda line, rng: b'"' + line,
    "a field too many": lambda line, rng: line + b",more",
}
