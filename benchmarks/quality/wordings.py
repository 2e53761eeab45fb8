"""How many held-out instructions a run misreads: each of them on the same held-out photos.

``python -m benchmarks.quality.wordings RUN [RUN ...]`` prints a Markdown table. An instruction counts as misread
where its edits lie more than 3 dB below the median of its task's instructions.
"""

import statistics
from pathlib import Path

import torch

from benchmarks.support.command import options
from ip2p_lightning.config.build import build_data
from ip2p_lightning.data.batch_sampler import Key
from ip2p_lightning.editing.editor import BatchEditor, ready
from ip2p_lightning.evaluation.metrics import psnr
from ip2p_lightning.rng import seed_of
from ip2p_lightning.runs.trained_run import open_run

BELOW = 3.0  # dB


def main() -> None:
    """Score every held-out instruction of every run."""
    torch.set_num_threads(1)
    print("| run | task | instructions | misread | median, dB | misread ones |\n|---|---|--:|--:|--:|---|")
    for run in options(__doc__, runs=list[Path]).runs:
        for task, found in decibels(run).items():
            middle = statistics.median(found.values())
            misread = [f"{prompt} ({x:.1f} dB)" for prompt, x in found.items() if x < middle - BELOW]
            told = [run.name, task, str(len(found)), str(len(misread)), f"{middle:.1f}", "; ".join(misread)]
            print(f"| {' | '.join(told)} |", flush=True)


def decibels(run: Path) -> dict[str, dict[str, float]]:
    """PSNR of each held-out instruction of each task, a mean over the test photos, one degradation each."""
    opened = open_run(run)
    data = build_data(opened.config)
    editor = BatchEditor(ready(opened.module, "cpu"), opened.module.sampler)
    found: dict[str, dict[str, float]] = {}
    for task, dataset in data.datasets("test", held_out_prompts=True).tasks.items():
        prompts = dataset.prompts.held_out
        sums = torch.zeros(len(prompts))
        for index in range(len(dataset)):
            example = dataset[Key(task, 0, index, 0)[1:]]
            original = example.original.expand(len(prompts), -1, -1, -1)
            edits = editor.edit(original, list(prompts), [seed_of(prompt) for prompt in prompts])
            sums += psnr(edits, example.edited.expand_as(edits))
        found[task] = dict(zip(prompts, (sums / len(dataset)).tolist(), strict=True))
    return found


if __name__ == "__main__":
    main()
