"""A dataset to look at: a sheet of pairs per task, histograms, and a page with both."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ip2p_lightning.curation.audit.policy import Audit, decoded
from ip2p_lightning.curation.verify import read_mark
from ip2p_lightning.data.contact_sheet import contact_sheet
from ip2p_lightning.errors import DamagedError
from ip2p_lightning.system.files import storage_errors, write_atomic

NAMED = 10  # rejections on the page
GAIN = 2  # of the difference image: a difference of 32 of 255 is clearly seen


def show(folder: Path, out: Path, pairs: int) -> Path:
    """Write PNGs and ``index.html`` (which holds them all) to `out`; returns the page.

    Raises:
        UserError: no finished dataset in `folder`.
        DamagedError: it cannot be read.
        StorageError: `out` cannot be written.
    """
    mark = read_mark(folder)
    lines, rejected = _report(folder)
    sheets = {f"{task}.png": _sheet(folder, task, lines, pairs) for task in mark["tasks"]}
    charts = _charts(lines, list(mark["tasks"]))
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, content in (sheets | charts).items():
        write_atomic(out / name, content)
    page = out / "index.html"
    write_atomic(page, _page(folder.resolve().name, mark, rejected, sheets, charts).encode())
    return page


def _report(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The report's lines for what is in the dataset, and for what is not."""
    found: dict[str, list[dict[str, Any]]] = {"accepted": [], "rejected": []}
    try:
        with (folder / "report.jsonl").open(encoding="utf-8") as file:
            for line in map(json.loads, file):
                found[line["verdict"]].append(line)
        return found["accepted"], found["rejected"]
    except (OSError, ValueError, KeyError) as error:
        raise DamagedError(f"{folder / 'report.jsonl'}: {error}; copy or build the dataset again") from None


def _sheet(folder: Path, task: str, lines: Sequence[Mapping[str, Any]], count: int) -> bytes:
    """Pairs spread evenly over the task, with what the edit changed."""
    mine = [line for line in lines if line["task"] == task]
    chosen = [mine[round(i)] for i in np.linspace(0, len(mine) - 1, min(count, len(mine)))]
    found = {row["id"]: row for row in _rows(folder, {line["id"]: line["split"] for line in chosen})}
    rows, captions = [], []
    for line in chosen:
        row = found[line["id"]]
        before, after = (
            decoded(row[name]["bytes"], Audit(pixels=10**9)).pixels for name in ("original_image", "edited_image")
        )
        difference = np.clip(GAIN * np.abs(before.astype(np.int16) - after), 0, 255).astype(np.uint8)
        rows.append((row["edit_prompt"], [before, after, difference]))
        score = "identical" if line["psnr"] is None else f"{line['psnr']:.1f} dB"
        captions.append([f"{line['width']} x {line['height']}, {line['split']}", score, ""])
    columns = ["original", "edited", f"difference x {GAIN}"]
    picture = contact_sheet(columns, rows, cell=256, title=f"{task}: {len(mine):,} pairs", captions=captions)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _rows(folder: Path, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The rows with these ids; only their groups are read."""
    for path in sorted((folder / "data").glob("*.parquet")):
        if path.name.partition("-")[0] not in wanted.values():
            continue
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if not wanted.keys().isdisjoint(file.read_row_group(group, ["id"]).column("id").to_pylist()):
                    yield from (row for row in file.read_row_group(group).to_pylist() if row["id"] in wanted)


def _charts(lines: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> dict[str, bytes]:
    values = {
        "psnr": ("PSNR of original against edited, dB (low: a large edit)", lambda line: line["psnr"]),
        "size": ("short side, pixels", lambda line: min(line["width"], line["height"])),
        "prompt": ("prompt length, tokens", lambda line: line["tokens"]),
    }
    charts = {}
    for name, (label, value) in values.items():
        of_task = {t: [value(x) for x in lines if x["task"] == t and value(x) is not None] for t in tasks}
        charts[f"{name}.png"] = histogram(label, of_task)
    return charts


_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#19191c}
img{max-width:100%;height:auto}table{border-collapse:collapse}td,th{padding:.2em 1em .2em 0;text-align:left}
.charts{display:flex;flex-wrap:wrap;gap:1em;margin:1.5em 0}.charts img{flex:1 1 18em;min-width:0;max-width:26em}
td,th{vertical-align:top}td{overflow-wrap:anywhere}"""


def _page(
    name: str,
    mark: Mapping[str, Any],
    rejected: Sequence[Mapping[str, Any]],
    sheets: Mapping[str, bytes],
    charts: Mapping[str, bytes],
) -> str:
    title = html.escape(name)
    facts = {
        "pairs": f"{mark['accepted']:,}, made from {mark['source_images']:,} source images",
        "tasks": ", ".join(f"{task} {count:,}" for task, count in mark["tasks"].items()),
        "splits": ", ".join(f"{split} {count:,}" for split, count in mark["splits"].items()),
        "rejected": f"{mark['rejected']:,}" + (" (see below)" if rejected else ""),
        "identical pairs": f"{mark['identical_pairs']:,}",
        "prompts cut off": f"{mark['tokens']['prompts_cut_off']:,} beyond {mark['tokens']['most']} tokens "
        f"({mark['tokens']['counted']})",
    }
    table = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in facts.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><table>{table}</table>"
        f'<div class="charts">{"".join(_image(n, c) for n, c in charts.items())}</div>'
        f"{''.join(_image(n, c) for n, c in sheets.items())}{_rejections(mark, rejected)}</html>\n"
    )


def _rejections(mark: Mapping[str, Any], rejected: Sequence[Mapping[str, Any]]) -> str:
    """How many at which stage, and the first few."""
    if not rejected:
        return ""
    stages = ", ".join(f"{count:,} at stage {stage}" for stage, count in mark["rejected_at"].items())
    rows = "".join(
        f"<tr><td>{html.escape(line['task'])}</td><td>{html.escape(line['path'])}</td>"
        f"<td>{html.escape(line['reason'])}</td></tr>"
        for line in rejected[:NAMED]
    )
    more = f"<p>and {len(rejected) - NAMED:,} more: see report.jsonl</p>" if len(rejected) > NAMED else ""
    return f"<h2>rejected: {stages}</h2><table>{rows}</table>{more}"


def _image(name: str, content: bytes) -> str:
    stem = html.escape(name.removesuffix(".png"))
    return f'<img alt="{stem}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def histogram(label: str, values: Mapping[str, Sequence[float]]) -> bytes:
    """A stacked histogram, one colour per name, of `values` along an axis called `label`.

    One value alone is a bar of width one; whole numbers over a short range get a bar each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    kept = {name: np.asarray(v, dtype=float) for name, v in values.items() if len(v)}
    if kept:
        axes.hist(list(kept.values()), bins=_edges(np.concatenate(list(kept.values()))), stacked=True, label=list(kept))
        if len(kept) > 1:
            axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(label, fontsize=9)
    axes.set_ylabel("pairs", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.yaxis.get_major_locator().set_params(integer=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if np.all(values == np.round(values)) and high - low < 40:
        return np.arange(low - 0.5, high + 1)
    bars = int(np.clip(2 * np.sqrt(len(values)), 6, 40))
    return np.linspace(low, high, bars + 1) if high > low else np.array([low - 0.5, low + 0.5])
