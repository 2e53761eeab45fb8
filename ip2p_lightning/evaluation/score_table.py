"""``scores.csv``: a run's mean scores, one row per method, task, split and kind of prompts.

Each says what was scored: the step, the weights, the sampler, the seed of its noise, the precision, the draws per pair.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tabulate import tabulate

from ip2p_lightning.errors import DamagedError
from ip2p_lightning.system.escaping import csv_cell
from ip2p_lightning.system.files import write_atomic

SETTINGS = ("step", "weights", "sampler", "seed", "dtype", "draws")
WHAT = ("method", "task", "split", "prompts")
COLUMNS = ("run", *SETTINGS, *WHAT, "psnr", "ssim", "n")
METHODS = ("model", "identity", "wrong_instruction")  # identity: the original, unedited, is the baseline


def means(rows: Iterable[Mapping[str, Any]], **same: Any) -> list[dict[str, str]]:
    """One row per task and method, in order of first appearance; `same` are columns that all rows share."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["method"]), []).append(row)
    return [
        {
            **{key: str(value) for key, value in same.items()},
            "method": method,
            "task": task,
            "psnr": f"{fmean(row['psnr'] for row in group):.4f}",
            "ssim": f"{fmean(row['ssim'] for row in group):.5f}",
            "n": str(len(group)),
        }
        for (task, method), group in groups.items()
    ]


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a ``scores.csv``, [] without a file. Raises DamagedError if it has other columns."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        table = csv.DictReader(file)
        rows = list(table)
    if tuple(table.fieldnames or ()) != COLUMNS or any(None in row or None in row.values() for row in rows):
        raise DamagedError(
            f"{path} is not a table of {','.join(COLUMNS)}; move it away, or start again with --overwrite"
        )
    return rows


def merge(path: Path, rows: Sequence[Mapping[str, str]], overwrite: bool = False) -> None:
    """Put `rows` at the end of the table; rows of the same settings and scores that it holds go."""
    new = {_key(row) for row in rows}
    stay = [] if overwrite else [row for row in read(path) if _key(row) not in new]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in [*stay, *rows])
    write_atomic(path, text.getvalue().encode())


def current(rows: Iterable[Mapping[str, str]], **same: Any) -> list[Mapping[str, str]]:
    """Of each method, task, split and kind of prompts the row to quote: of the newest step, averaged weights first, the
    last that was written. `same`: only rows of e.g. this ``step`` and these ``weights``."""
    found: dict[tuple[str, ...], Mapping[str, str]] = {}
    for row in rows:
        if all(row[key] == str(value) for key, value in same.items()):
            key = tuple(row[name] for name in WHAT)
            if key not in found or _rank(row) >= _rank(found[key]):
                found[key] = row
    return list(found.values())


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in (*SETTINGS, *WHAT))


def _rank(row: Mapping[str, str]) -> tuple[int, bool]:
    return int(row["step"]), row["weights"] == "ema"


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, atomically."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def as_table(rows: Sequence[Mapping[str, str]], photos: Mapping[str, int]) -> str:
    """Per task, aligned for a terminal: identity, model, gain and, if there is one, wrong instruction in dB, and SSIM.

    `photos` are the distinct ones of each task: what else was scored are draws of the same ones.
    """
    psnr = {(row["task"], row["method"]): float(row["psnr"]) for row in rows}
    ssim = {(row["task"], row["method"]): float(row["ssim"]) for row in rows}
    wrong = [method for method in METHODS[2:] if any(row["method"] == method for row in rows)]
    head = ["task", "scored", "identity", "model", "gain", *("wrong instruction" for _ in wrong)]
    head += ["SSIM identity", "model"]
    lines = []
    for task, count in {row["task"]: int(row["n"]) for row in rows}.items():
        identity, model, *others = (psnr[task, method] for method in ("identity", "model", *wrong))
        decibels = [f"{identity:.2f} dB", f"{model:.2f} dB", f"{model - identity:+.2f} dB"]
        decibels += [f"{other:.2f} dB" for other in others]
        scored = counted(photos[task], count)
        lines.append((task, scored, *decibels, f"{ssim[task, 'identity']:.3f}", f"{ssim[task, 'model']:.3f}"))
    align = ["left", *["right"] * (len(head) - 1)]
    return tabulate(lines, head, tablefmt="plain", colalign=align, disable_numparse=True)


def counted(photos: int, images: int) -> str:
    """``2 photos x 12 draws``; where the photos were not drawn equally often, ``3 photos, 10 draws``."""
    each, rest = divmod(images, photos)
    draws = f"{images} draws" if rest else f"{each} draw{'s' * (each > 1)}"
    return f"{photos} photo{'s' * (photos > 1)}{',' if rest else ' x'} {draws}"
