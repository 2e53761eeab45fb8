"""Put the demo's picture and table into the README: ``make demo docs``, or ``python docs/make_readme.py RUN...``.

Of several runs (seeds, processors) the table holds means and the lowest gain; the picture is the first run's.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from statistics import fmean

from PIL import Image

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"


def table(runs: list[Path]) -> str:
    """The runs' scores as Markdown, a row per task: the mean over the runs, and the lowest gain of any."""
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for run in runs:
        with (run / "scores.csv").open() as file:
            for row in csv.DictReader(file):
                if row["prompts"] == "heldout":
                    rows.setdefault((row["task"], row["method"]), []).append(row)
    lines = ["| task | identity baseline | model | gain | wrong instruction | SSIM |", "|---|---|---|---|---|---|"]
    for task in dict.fromkeys(task for task, _ in rows):
        identity, model, wrong = (rows[task, method] for method in ("identity", "model", "wrong_instruction"))
        gains = [float(m["psnr"]) - float(i["psnr"]) for m, i in zip(model, identity, strict=True)]
        worst = f" (worst {min(gains):+.1f})" if len(runs) > 1 else ""
        lines.append(
            f"| {task} | {mean(identity, 'psnr'):.1f} dB | {mean(model, 'psnr'):.1f} dB | "
            f"**{fmean(gains):+.1f} dB**{worst} | {mean(wrong, 'psnr'):.1f} dB | "
            f"{mean(identity, 'ssim'):.2f} → {mean(model, 'ssim'):.2f} |"
        )
    return "\n".join(lines)


def mean(rows: list[dict[str, str]], score: str) -> float:
    """The mean of a score over the runs."""
    return fmean(float(row[score]) for row in rows)


def main() -> None:
    """Copy the picture to docs/demo.png and replace what stands between the README's markers."""
    runs = [Path(word) for word in sys.argv[1:]]
    Image.open(runs[0] / "sheet-test-heldout.png").convert("RGB").save(ROOT / "docs" / "demo.png", optimize=True)
    readme = ROOT / "README.md"
    text = re.sub(f"(?s){BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{table(runs)}\n{END}", readme.read_text())
    readme.write_text(text)
    print(table(runs))


if __name__ == "__main__":
    main()
