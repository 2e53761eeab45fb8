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
    kinds = [(kind, ending) for kind in KINDS for ending in KINDS[kind].endings]
    kind, ending = kinds[number % len(kinds)]
    records, row = good(), int(rng.integers(1, ROWS))
    field = KINDS[kind].change(records, row, rng)
    lines = _jsonl(records) if ending == ".jsonl" else _csv(records)
    line = row + (1 if ending == ".jsonl" else 2)
    content, whole = _damaged(kind, lines, line, rng)
    return Fault(content, ending, kind, None if kind in HARMLESS else line, "" if whole else field)


def good() -> Records:
    """Nothing wrong."""
    return [
        {"id": f"pair {i}", "original": f"in{i}.png", "edited": f"out{i}.png", "prompt": f"less rain {i}", "split": s}
        for i, s in enumerate(["train"] * (ROWS - 2) + ["val", "test"])
    ]


# ---- faults of a record: they return the field ----


Change = Callable[[Records, int, np.random.Generator], str]


def _nothing(records: Records, row: int, rng: np.random.Generator) -> str:
    return ""


def _missing_key(records: Records, row: int, rng: np.random.Generator) -> str:
    field = str(rng.choice(["original", "edited"]))
    del records[row][field]
    return field


def _put(fields: str, *values: Any) -> Change:
    """One of the values in one of the fields."""

    def put(records: Records, row: int, rng: np.random.Generator) -> str:
        field = str(rng.choice(fields.split()))
        records[row][field] = values[int(rng.integers(len(values)))]
        return field

    return put


def _strange(records: Records, row: int, rng: np.random.Generator) -> str:
    _put("prompt", "{braces} %s {{ jinja }}", "اجعلها كرتونا", "🎨🖌️ paint", "a,b;c'd", "e\u0301")(records, row, rng)
    return ""


def _same_id(records: Records, row: int, rng: np.random.Generator) -> str:
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
    other = records[int(rng.integers(row))]
    records[row] |= {side: other[side] for side in ("original", "edited", "prompt")}
    return "id"


class Kind(NamedTuple):
    """How a good manifest gets a fault: in a record, or in the bytes of its line."""

    change: Change = _nothing
    line: Callable[[bytes, np.random.Generator], bytes] | None = None
    endings: tuple[str, ...] = (".jsonl", ".csv")


_SIDES = "original edited"
_OUTSIDE = ("../in0.png", "/dev/zero", "~/x.png", "C:\\x.png", "a/../../b.png", "in\0.png")
_JSON, _CSV = (".jsonl",), (".csv",)
KINDS = {
    "good": Kind(),
    "byte order mark": Kind(),
    "CRLF": Kind(),
    "blank lines": Kind(endings=_JSON),
    "strange prompts": Kind(_strange),
    "cut line": Kind(line=lambda line, rng: line[: int(rng.integers(1, 12))]),
    "single quotes": Kind(line=lambda line, rng: line.replace(b'"', b"'"), endings=_JSON),
    "trailing comma": Kind(line=lambda line, rng: line[:-1] + b",}", endings=_JSON),
    "a brace too many": Kind(line=lambda line, rng: line + b"}", endings=_JSON),
    "NaN": Kind(line=lambda line, rng: line[:-1] + b', "weight": NaN}', endings=_JSON),
    "infinity": Kind(line=lambda line, rng: line[:-1] + b', "weight": -Infinity}', endings=_JSON),
    "deep nesting": Kind(line=lambda line, rng: b"[" * int(rng.integers(5_000, 100_000)), endings=_JSON),
    "huge number": Kind(line=lambda line, rng: line[:-1] + b', "weight": ' + b"9" * 10_000 + b"}", endings=_JSON),
    "no object": Kind(line=lambda line, rng: [b"[1, 2]", b'"text"', b"17", b"null"][rng.integers(4)], endings=_JSON),
    "raw NUL": Kind(line=lambda line, rng: line.replace(b".png", b"\0.png"), endings=_JSON),
    "10 MB line": Kind(line=lambda line, rng: line.replace(b"rain", b"rain" * 2_500_000)),
    "10 MB of open brackets": Kind(line=lambda line, rng: b"[" * 10_000_000, endings=_JSON),
    "not UTF-8": Kind(line=lambda line, rng: line.replace(b"rain", b"r\xe4in")),
    "quote left open": Kind(line=lambda line, rng: b'"' + line, endings=_CSV),
    "a field too many": Kind(line=lambda line, rng: line + b",more", endings=_CSV),
    "wrong type": Kind(_put("original edited prompt split id", ["a"], {"a": 1}, True, 2.5), endings=_JSON),
    "missing key": Kind(_missing_key, endings=_JSON),
    "empty field": Kind(_put(_SIDES, "", " ", "\t  ")),
    "no such file": Kind(_put(_SIDES, "none.png", "no/such.png", "x" * 5000, ".", "in0.png/", "ä\u0301.png")),
    "path outside": Kind(_put(_SIDES, *_OUTSIDE)),
    "no such split": Kind(_put("split", "Train", "dev", "validation", "0")),
    "no sha256": Kind(_put("original_sha256", "0" * 63, "g" * 64, "md5")),
    "sha256 of another type": Kind(_put("edited_sha256", 5, ["0" * 64], True), endings=_JSON),
    "id twice": Kind(_same_id),
    "id twice in NFC and NFD": Kind(_accents),
    "pair twice": Kind(_pair_twice),
    "NUL in a prompt": Kind(_put("prompt", "take\0 it")),
    "half a character": Kind(_put("original prompt id", "half \ud83d"), endings=_JSON),
}
HARMLESS = ("good", "byte order mark", "CRLF", "blank lines", "strange prompts")
DUPLICATES = ("id twice", "id twice in NFC and NFD", "pair twice")
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


def _damaged(kind: str, lines: list[bytes], line: int, rng: np.random.Generator) -> tuple[bytes, bool]:
    """The file, and whether it is a line as a whole that is damaged."""
    i = line - 1
    plain = b"\n".join(lines) + b"\n"
    if kind in ("byte order mark", "CRLF", "blank lines"):
        join = {"byte order mark": b"\n", "CRLF": b"\r\n", "blank lines": b"\n\n \n"}[kind]
        return (b"\xef\xbb\xbf" if kind == "byte order mark" else b"") + join.join(lines) + join, False
    if KINDS[kind].line is None:
        return plain, False
    lines[i] = KINDS[kind].line(lines[i], rng)
    return b"\n".join(lines) + b"\n", True
