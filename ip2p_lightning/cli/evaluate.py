"""``ip2p-evaluate``: PSNR and SSIM of a run per task, beside the identity baseline and a wrong instruction."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.cli.parser import (
    Parser,
    add_model_options,
    at_least,
    described,
    overridden,
    run,
    sampler_settings,
    shown,
)
from ip2p_lightning.evaluation.score_table import as_table, means, merge, write_rows
from ip2p_lightning.system.imports import quiet_libraries

EXAMPLES = """
writes into RUN:
  scores.csv                   one row per method and task, with the run's step, the weights, sampler, seed, precision
                               and draws; rows of another of these stay
  scores-SPLIT-PROMPTS.jsonl   one line per image and method
  sheet-SPLIT-PROMPTS.png      original | edit | wrong instruction | ground truth, of different photos first
With other settings of the sampler than the run's (--steps 4 --scheduler dpm++), into RUN/steps-4+scheduler-dpm++/.

methods:
  model                        the run's model with an instruction of the image's task
  identity                     the identity baseline: the original, unedited
  wrong_instruction            the model with an instruction of another task: must differ from model, and score worse;
                               not for a run of one task

examples:
  ip2p-evaluate runs/demo                              held-out photos, instructions of the kind it was trained on
  ip2p-evaluate runs/demo --prompts heldout            the same photos, instructions it has never seen
  ip2p-evaluate runs/demo --split val --weights raw
  ip2p-evaluate runs/demo --steps 4                    the same run, sampled in four steps

The same command writes the same bytes. Exit codes: 0 done, 2 usage, 3 data, 5 disk, 6 damaged checkpoint, 7 unsafe.
"""


def parser() -> Parser:
    """The command line of ``ip2p-evaluate``."""
    page = Parser("ip2p-evaluate", "Score a run on its own data: PSNR and SSIM per task.", EXAMPLES)
    page.add_argument("run", metavar="RUN", type=Path, help="the run's folder")
    page.add_argument("--split", choices=("test", "val", "train"), default="test", help="which pairs (default: test)")
    pools = "instructions from the training pool, or those held out from it (default: seen)"
    page.add_argument("--prompts", choices=("seen", "heldout"), default="seen", help=pools)
    times = "times each pair is shown, with another degradation and prompt (default: the run's loader.eval_draws)"
    page.add_argument("--draws", type=at_least(1), metavar="N", help=times)
    page.add_argument("--batch-size", type=at_least(1), metavar="N", help="images at a time (default: by their size)")
    add_model_options(page)
    rows = "rows per task on the sheet (default: 3)"
    page.add_argument("--sheet-examples", type=at_least(0), default=3, metavar="N", help=rows)
    page.add_argument("--overwrite", action="store_true", help="begin scores.csv anew: drop all rows it holds")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    return run(parser(), _evaluate, argv)


def _evaluate(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from ip2p_lightning.config.build import build_data
    from ip2p_lightning.data.example import Photos
    from ip2p_lightning.editing.editor import BatchEditor, ready
    from ip2p_lightning.editing.timer import Clock
    from ip2p_lightning.evaluation.scoring import score_batches, wrong_pools
    from ip2p_lightning.runs.trained_run import model_config, open_run

    data = build_data(model_config(args.run))
    if args.batch_size is not None:
        data.loader = replace(data.loader, eval_batch_size=args.batch_size)
    held_out = args.prompts == "heldout"
    batches = data.evaluation(args.split, held_out_prompts=held_out, draws=args.draws)  # bad data shows before weights
    quiet_libraries()
    opened = open_run(args.run, args.weights)
    wrong = wrong_pools(data)
    sampler = overridden(opened.module, args)
    module = ready(opened.module, args.device, args.dtype, args.compile)
    editor = BatchEditor(module, sampler, args.batch_size, Clock(module.device))
    rows: list[dict[str, Any]] = []
    photos: dict[str, Photos] = {}
    for example, lines, images in score_batches(editor, batches, wrong, args.split, args.prompts, args.seed):
        rows += [{"task": example.task, "id": example.id, **row} for row in lines]
        photos.setdefault(example.task, Photos(args.sheet_examples)).see(example, (example, images, lines))
    _write(args, opened, described(sampler), rows, photos)
    print(f"speed        {editor.clock.summary()}")


def _write(
    args: argparse.Namespace, opened: Any, sampler: str, rows: list[dict[str, Any]], photos: Mapping[str, Any]
) -> None:
    from ip2p_lightning.system.files import storage_errors

    name, ending = opened.folder.resolve().name, f"{args.split}-{args.prompts}"
    settings = sampler_settings(args)  # other ones than the run's have a folder of their own
    folder = args.run / "+".join(f"{key.replace('_', '-')}-{value}" for key, value in settings.items())
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    scores, lines = folder / "scores.csv", folder / f"scores-{ending}.jsonl"
    scored = {"step": opened.step, "weights": args.weights, "sampler": sampler, "seed": args.seed, "dtype": args.dtype}
    scored["draws"] = max(row["draw"] for row in rows) + 1
    found = means(rows, run=name, **scored, split=args.split, prompts=args.prompts)
    write_rows(lines, [{**scored, **row} for row in rows])
    merge(scores, found, overwrite=args.overwrite)
    what = f"{args.split} pairs, {args.prompts.replace('heldout', 'held-out')} instructions"
    print(f"{name}, step {opened.step}, {args.weights} weights: {what}\n")
    print(as_table(found, {task: seen.count for task, seen in photos.items()}))
    print(f"\nscores       {shown(scores)}\nper image    {shown(lines)}")
    if args.sheet_examples:
        picture = folder / f"sheet-{ending}.png"
        with storage_errors(picture):
            _save_sheet(picture, f"{name}: {what}", {task: seen.chosen for task, seen in photos.items()})
        print(f"picture      {shown(picture)}")


def _save_sheet(path: Path, title: str, sheet: Mapping[str, list[Any]]) -> None:
    from ip2p_lightning.data.contact_sheet import contact_sheet, to_pixels
    from ip2p_lightning.system.files import write_atomic

    rows, captions = [], []
    columns = {"identity": "original", "model": "edit", "wrong_instruction": "wrong instruction"}
    shown = list(itertools.chain(*sheet.values()))
    methods = [method for method in columns if any(method in images for _, images, _ in shown)]
    for example, images, scored in shown:
        found = {row["method"]: row for row in scored}
        wrong = f"   (wrong: {found['wrong_instruction']['prompt']})" if "wrong_instruction" in found else ""
        label = f"{example.task}: {example.prompt}{wrong}"
        cells = [*(images[method] for method in methods), example.edited]
        rows.append((label, [to_pixels(cell) for cell in cells]))
        captions.append([*(f"{found[method]['psnr']:.1f} dB" for method in methods), ""])
    heads = [*(columns[method] for method in methods), "ground truth"]
    picture = contact_sheet(heads, rows, title=title, captions=captions)
    write_atomic(path, lambda file: picture.save(file, "PNG"))


if __name__ == "__main__":
    sys.exit(main())
