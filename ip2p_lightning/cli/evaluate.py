"""``ip2p-evaluate``: PSNR and SSIM of a run per task, beside the identity baseline and a wrong instruction."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.cli.parser import (
    Parser,
    add_device_options,
    add_sampler_options,
    at_least,
    overridden,
    run,
    sampler_settings,
    shown,
)
from ip2p_lightning.evaluation.scores_file import as_table, means, merge, write_rows
from ip2p_lightning.system.imports import quiet_libraries

EXAMPLES = """
writes into RUN:
  scores.csv                   one row per method and task: run, method, task, split, prompts, psnr, ssim, n;
                               rows of the same method, task, split and prompts are replaced, the others stay
  scores-SPLIT-PROMPTS.jsonl   one line per image and method
  sheet-SPLIT-PROMPTS.png      original | edit | wrong instruction | ground truth
With other settings of the sampler than the run's (--steps 4 --scheduler dpm++), into RUN/steps-4+scheduler-dpm++/.

methods:
  model                        the run's model with an instruction of the image's task
  identity                     the identity baseline: the original, unedited
  wrong_instruction            the model with an instruction of another task: must differ from model, and score worse

examples:
  ip2p-evaluate runs/demo                              held-out photos, instructions of the kind it was trained on
  ip2p-evaluate runs/demo --prompts heldout            the same photos, instructions it has never seen
  ip2p-evaluate runs/demo --split val --weights raw
  ip2p-evaluate runs/demo --steps 4                    the same run, sampled in four steps

The same command writes the same bytes. Exit codes: 0 done, 2 usage, 3 data, 5 disk, 6 damaged checkpoint, 7 refused.
"""


def parser() -> Parser:
    """The command line of ``ip2p-evaluate``."""
    page = Parser("ip2p-evaluate", "Score a run on its own data: PSNR and SSIM per task.", EXAMPLES)
    page.add_argument("run", metavar="RUN", type=Path, help="the run's folder")
    page.add_argument("--split", choices=("test", "val", "train"), default="test", help="which pairs (default: test)")
    page.add_argument(
        "--prompts",
        choices=("seen", "heldout"),
        default="seen",
        help="instructions from the training pool, or those held out from it (default: seen)",
    )
    page.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or raw (default: ema)")
    page.add_argument("--seed", type=at_least(0), metavar="N", default=0, help="of the sampler's noise (default: 0)")
    page.add_argument("--batch-size", type=at_least(1), metavar="N", help="images at a time (default: by their size)")
    add_sampler_options(page)
    add_device_options(page)
    page.add_argument(
        "--sheet-examples", type=at_least(0), default=3, metavar="N", help="rows per task on the sheet (default: 3)"
    )
    page.add_argument("--overwrite", action="store_true", help="begin scores.csv anew: drop all rows it holds")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ip2p-evaluate``; returns the exit code."""
    return run(parser(), _evaluate, argv)


def _evaluate(args: argparse.Namespace) -> int:
    from ip2p_lightning.config.build import build_data
    from ip2p_lightning.evaluation.scoring import scored, wrong_pools
    from ip2p_lightning.runs.open import model_config, open_run

    data = build_data(model_config(args.run))
    batches = _batches(data, args)  # what is wrong with the data shows before any weights are read
    quiet_libraries()
    opened = open_run(args.run, args.weights)
    wrong = wrong_pools(data, opened.config)
    editor = _editor(opened.module, args)
    rows: list[dict[str, Any]] = []
    sheet: dict[str, list[Any]] = {}
    for example, lines, images in scored(editor, batches, wrong, args.split, args.prompts, args.seed):
        rows += [{"task": example.task, "id": example.id, **row} for row in lines]
        examples = sheet.setdefault(example.task, [])
        if len(examples) < args.sheet_examples:
            examples.append((example, images, lines))
    _write(args, opened, rows, sheet)
    print(f"speed        {editor.clock.summary()}")
    return 0


def _editor(module: Any, args: argparse.Namespace) -> Any:
    from ip2p_lightning.editing.editor import BatchEditor, ready
    from ip2p_lightning.editing.timer import Clock

    sampler = overridden(module.sampler, args)
    module = ready(module, args.device, args.dtype, args.compile)
    return BatchEditor(module, sampler, args.batch_size, Clock(module.device))


def _batches(data: Any, args: argparse.Namespace) -> Any:
    from dataclasses import replace

    if args.batch_size is not None:
        data.loader = replace(data.loader, eval_batch_size=args.batch_size)
    return data.evaluation(args.split, held_out_prompts=args.prompts == "heldout")


def _write(args: argparse.Namespace, opened: Any, rows: list[dict[str, Any]], sheet: Mapping[str, list[Any]]) -> None:
    from ip2p_lightning.system.files import storage_errors

    name, ending = opened.folder.resolve().name, f"{args.split}-{args.prompts}"
    folder = _folder(args)
    scores, lines = folder / "scores.csv", folder / f"scores-{ending}.jsonl"
    found = means(rows, run=name, split=args.split, prompts=args.prompts)
    write_rows(lines, [{"step": opened.step, "weights": args.weights, "seed": args.seed, **row} for row in rows])
    merge(scores, found, afresh=args.overwrite)
    what = f"{args.split} pairs, {args.prompts.replace('heldout', 'held-out')} instructions"
    print(f"{name}, step {opened.step}, {args.weights} weights: {what}\n")
    print(as_table(found))
    print(f"\nscores       {shown(scores)}\nper image    {shown(lines)}")
    if args.sheet_examples:
        picture = folder / f"sheet-{ending}.png"
        with storage_errors(picture):
            _save_sheet(picture, f"{name}: {what}", sheet)
        print(f"picture      {shown(picture)}")


def _folder(args: argparse.Namespace) -> Path:
    """Where the scores go: beside those of the run's own sampler there is no room for another's."""
    from ip2p_lightning.system.files import storage_errors

    given = sampler_settings(args)
    folder = args.run / "+".join(f"{name.replace('_', '-')}-{value}" for name, value in given.items())
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    return folder


def _save_sheet(path: Path, title: str, sheet: Mapping[str, list[Any]]) -> None:
    from ip2p_lightning.data.contact_sheet import contact_sheet, to_pixels
    from ip2p_lightning.system.files import write_atomic

    rows, captions = [], []
    for task, examples in sheet.items():
        for example, images, scored in examples:
            decibels = {row["method"]: f"{row['psnr']:.1f} dB" for row in scored}
            said = {row["method"]: row["prompt"] for row in scored}
            shown_as = f"{task}: {example.prompt}   (wrong: {said['wrong_instruction']})"
            cells = [images["identity"], images["model"], images["wrong_instruction"], example.edited]
            rows.append((shown_as, [to_pixels(cell) for cell in cells]))
            captions.append([decibels["identity"], decibels["model"], decibels["wrong_instruction"], ""])
    columns = ["original", "edit", "wrong instruction", "ground truth"]
    picture = contact_sheet(columns, rows, title=title, captions=captions)
    write_atomic(path, lambda file: picture.save(file, "PNG"))


if __name__ == "__main__":
    sys.exit(main())
