"""Put the demo's picture and table into the README: ``make demo docs``, or ``python docs/make_readme.py RUN``."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"


def table(run: Path) -> str:
    """The demo's scores as Markdown: a row per task."""
    with (run / "scores.csv").open() as file:
        rows = {(r["task"], r["method"]): r for r in csv.DictReader(file) if r["prompts"] == "heldout"}
    lines = ["| task | identity baseline | model | gain | wrong instruction | SSIM |", "|---|---|---|---|---|---|"]
    for task in dict.fromkeys(task for task, _ in rows):
        identity, model, wrong = (rows[task, method] for method in ("identity", "model", "wrong_instruction"))
        gain = float(model["psnr"]) - float(identity["psnr"])
        lines.append(
            f"| {task} | {float(identity['psnr']):.1f} dB | {float(model['psnr']):.1f} dB | **{gain:+.1f} dB** | "
            f"{float(wrong['psnr']):.1f} dB | {float(identity['ssim']):.2f} → {float(model['ssim']):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Copy the picture to docs/demo.png and replace what stands between the README's markers."""
    run = Path(sys.argv[1])
    Image.open(run / "sheet-test-heldout.png").convert("RGB").save(ROOT / "docs" / "demo.png", optimize=True)
    readme = ROOT / "README.md"
    text = re.sub(f"(?s){BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{table(run)}\n{END}", readme.read_text())
    readme.write_text(text)
    print(table(run))


if __name__ == "__main__":
    main()
