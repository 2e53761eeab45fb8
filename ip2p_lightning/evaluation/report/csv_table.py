"""The report as CSV: one row per run, method and task, for further analysis."""

from __future__ import annotations

from ip2p_lightning.evaluation.report.configurations import Comparison

COLUMNS = [
    *("configuration", "run", "seed", "state", "reason", "method", "task", "split", "prompts", "psnr", "ssim", "n"),
    *("step", "images", "seconds", "peak_memory_mb", "commit"),
]
FORMS = {"psnr": "{:.4f}", "ssim": "{:.5f}", "n": "{:.0f}", "seconds": "{:.1f}", "peak_memory_mb": "{:.0f}"}


def as_csv(found: Comparison) -> bytes:
    """All runs; one without scores has a row of its own."""
    scores = found.scores.drop(columns=["configuration", "seed"]).replace({"n": {0: None}})
    table = found.runs.merge(scores, on="run", how="left")
    for column, form in FORMS.items():
        table[column] = table[column].map(form.format, na_action="ignore")
    return table[COLUMNS].to_csv(index=False, lineterminator="\n").encode()
