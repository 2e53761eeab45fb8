"""How many instructions a run misreads: held-out and colloquial ones, on fixed photos and degradations.

``python -m benchmarks.quality.wordings RUN [RUN ...]`` prints a Markdown table. An instruction is misread where, for
any of the test photos, its edit lies more than 3 dB below the edit under the task's canonical sentence
(`prompts=single`), or less than 1 dB above the unedited photo.
"""

from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.support.command import options
from ip2p_lightning.config.build import build_data
from ip2p_lightning.config.compose import CONF
from ip2p_lightning.editing.editor import BatchEditor, ready
from ip2p_lightning.evaluation.metrics import psnr
from ip2p_lightning.rng import seed_of
from ip2p_lightning.runs.trained_run import open_run

BELOW, ABOVE, BATCH = 3.0, 1.0, 12  # dB, dB, instructions at a time


def main() -> None:
    """Score every instruction of every run."""
    torch.set_num_threads(1)
    print("| run | list | task | misread | which |\n|---|---|---|--:|---|")
    lists = {"held-out": pools("parts/held_out", "held_out"), "colloquial": pools("parts/colloquial", "held_out")}
    canonical = pools("single", "prompts")
    for run in options(__doc__, runs=list[Path]).runs:
        opened = open_run(run)
        editor = BatchEditor(ready(opened.module, "cpu"), opened.module.sampler)
        tasks = build_data(opened.config).datasets("test", held_out_prompts=True).tasks
        for name, sentences in lists.items():
            for task, dataset in tasks.items():
                found = misread(editor, dataset, canonical[task][0], sentences[task])
                which = "; ".join(f"{prompt} ({reached:.1f} dB)" for prompt, reached in found.items())
                print(
                    f"| {run.name} | {name} | {task} | {len(found)} of {len(sentences[task])} | {which} |", flush=True
                )


def pools(name: str, part: str) -> dict[str, list[str]]:
    """The sentences of each task in a file of ``conf/prompts``."""
    stored = yaml.safe_load((CONF / "prompts" / f"{name}.yaml").read_text())
    return {task: pool[part] for task, pool in stored.items() if isinstance(pool, dict) and part in pool}


def misread(editor: BatchEditor, dataset: Any, canonical: str, prompts: list[str]) -> dict[str, float]:
    """The misread sentences, with the PSNR of the photo where the edit falls short the most."""
    found: dict[str, float] = {}
    for index in range(len(dataset)):
        example = dataset[0, index, 0]
        right = decibels(editor, example, [canonical])[0]
        identity = psnr(example.original[None], example.edited[None]).item()
        for prompt, reached in zip(prompts, decibels(editor, example, prompts), strict=True):
            if reached < max(right - BELOW, identity + ABOVE):
                found[prompt] = min(reached, found.get(prompt, reached))
    return found


def decibels(editor: BatchEditor, example: Any, prompts: list[str]) -> list[float]:
    """PSNR of one photo's edit under each sentence."""
    found: list[float] = []
    for at in range(0, len(prompts), BATCH):
        part = prompts[at : at + BATCH]
        edits = editor.edit(example.original.expand(len(part), -1, -1, -1), part, [seed_of(prompt) for prompt in part])
        found += psnr(edits, example.edited.expand_as(edits)).tolist()
    return found


if __name__ == "__main__":
    main()
