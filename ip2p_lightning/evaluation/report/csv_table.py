"""The report as CSV: one row per run, method and task, for whoever wants to compute something else."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ip2p_lightning.evaluation.report.arms import Arm
from ip2p_lightning.evaluation.report.runs import RunSummary, Score

COLUMNS = (
    *("arm", "run", "seed", "state", "reason", "method", "task", "split", "prompts", "psnr", "ssim", "n"),
    *("step", "images", "seconds", "peak_memory_mb", "commit"),
)


def as_csv(cells: Sequence[RunSummary], arms: Sequence[Arm]) -> bytes:
    """All cells; one without scores has a row of its own."""
    labels = {cell.name: arm.label for arm in arms for cell in arm.cells}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        for score in cell.scores or (None,):
            writer.writerow({"arm": labels.get(cell.name, ""), **_of_run(cell), **_of_score(score)})
    return text.getvalue().encode()


def _of_run(cell: RunSummary) -> dict[str, object]:
    return {
        "run": cell.name,
        "seed": cell.seed,
        "state": cell.state,
        "reason": cell.reason,
        "step": cell.status.get("step", ""),
        "images": "" if cell.images is None else cell.images,
        "seconds": "" if cell.seconds is None else f"{cell.seconds:.1f}",
        "peak_memory_mb": "" if cell.memory is None else f"{cell.memory:.0f}",
        "commit": cell.status.get("commit") or "",
    }


def _of_score(score: Score | None) -> dict[str, object]:
    if score is None:
        return {}
    names = {"method": score.method, "task": score.task, "split": score.split, "prompts": score.prompts}
    return names | {"psnr": f"{score.psnr:.4f}", "ssim": f"{score.ssim:.5f}", "n": score.n or ""}
