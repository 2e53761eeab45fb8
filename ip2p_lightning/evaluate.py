"""``ip2p-evaluate``: PSNR and SSIM of a run per task, beside the identity edit and beside a wrong instruction."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.commands import Parser, at_least, device, quiet_libraries, run, shown
from ip2p_lightning.scores import METHODS, as_table, means, merge, write_rows

EXAMPLES = """
writes into RUN:
  scores.csv                   one row per method and task: run, method, task, split, prompts, psnr, ssim, n;
                               rows of the same method, task, split and prompts are replaced, the others stay
  scores-SPLIT-PROMPTS.jsonl   one line per image and method
  sheet-SPLIT-PROMPTS.png      original | edit | wrong instruction | ground truth

methods:
  model                        the run's model with an instruction of the image's task
  identity                     the original as it is: what doing nothing scores
  wrong_instruction            the model with an instruction of another task: must differ from model, and score worse

examples:
  ip2p-evaluate runs/demo                              held-out photos, instructions of the kind it was trained on
  ip2p-evaluate runs/demo --prompts heldout            the same photos, instructions it has never seen
  ip2p-evaluate runs/demo --split val --weights raw

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
    page.add_argument("--batch-size", type=at_least(1), metavar="N", help="images at a time (default: the run's)")
    page.add_argument(
        "--sheet-examples", type=at_least(0), default=3, metavar="N", help="rows per task on the sheet (default: 3)"
    )
    page.add_argument("--overwrite", action="store_true", help="begin scores.csv anew: drop all rows it holds")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ip2p-evaluate``; returns the exit code."""
    return run(parser(), _evaluate, argv)


def _evaluate(args: argparse.Namespace) -> int:
    from ip2p_lightning.config import check
    from ip2p_lightning.recipe import Recipe, build_data
    from ip2p_lightning.runs import open_run, read_config

    config = read_config(args.run)
    check(config, Recipe)
    data = build_data(config)
    batches = _batches(data, args)  # what is wrong with the data shows before any weights are read
    quiet_libraries()
    opened = open_run(args.run, args.weights)
    wrong = wrong_pools(data, opened.config)
    rows: list[dict[str, Any]] = []
    sheet: dict[str, list[Any]] = {}
    for example, scored, images in _scored(device(opened.module), batches, wrong, args):
        rows += [{"task": example.task, "id": example.id, **row} for row in scored]
        examples = sheet.setdefault(example.task, [])
        if len(examples) < args.sheet_examples:
            examples.append((example, images, scored))
    _write(args, opened, rows, sheet)
    return 0


def _batches(data: Any, args: argparse.Namespace) -> Any:
    from dataclasses import replace

    if args.batch_size is not None:
        data.loader = replace(data.loader, eval_batch_size=args.batch_size)
    return data.evaluation(args.split, held_out_prompts=args.prompts == "heldout")


def wrong_pools(data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """For each task the prompt pool of another: the next task's; for a lone task, that of another in the config."""
    pools = {name: task.prompts for name, task in data.active.items()}
    names = list(pools)
    if len(names) > 1:
        return {name: pools[names[(i + 1) % len(names)]] for i, name in enumerate(names)}
    from ip2p_lightning.config import build

    others = (node for name, node in config["prompts"].items() if name not in names and isinstance(node, Mapping))
    return {names[0]: build(next(others))}


def _scored(module: Any, batches: Any, wrong: Mapping[str, Any], args: argparse.Namespace) -> Iterator[Any]:
    """Of each example, one at a time: the example, its rows per method, and the images of the methods."""
    import torch
    from tqdm.auto import tqdm

    from ip2p_lightning.data.example import EditExample
    from ip2p_lightning.metrics import psnr, ssim

    draws: dict[tuple[str, str], int] = {}
    for batch in tqdm(batches, desc="evaluate", unit="batch", disable=None):
        keys = [_key(args, task, name, draws) for task, name in zip(batch.task, batch.id, strict=True)]
        said = {"model": list(batch.prompt), "identity": [""] * len(keys)}
        said["wrong_instruction"] = _wrong(batch, wrong, keys, args.prompts)
        original, truth = batch.original.to(module.device), batch.edited.to(module.device)
        images = {"model": _edit(module, original, said["model"], keys), "identity": original}
        images["wrong_instruction"] = _edit(module, original, said["wrong_instruction"], keys)
        with torch.no_grad():
            values = {m: (psnr(images[m], truth).tolist(), ssim(images[m], truth).tolist()) for m in METHODS}
        for i, name in enumerate(batch.id):
            example = EditExample(batch.original[i], batch.edited[i], batch.prompt[i], batch.task[i], name)
            rows = [
                {"draw": keys[i][-1], "method": m, "prompt": said[m][i], "psnr": p[i], "ssim": s[i]}
                for m, (p, s) in values.items()
            ]
            yield example, rows, {m: x[i].cpu() for m, x in images.items()}


def _key(args: argparse.Namespace, task: str, name: str, draws: dict[tuple[str, str], int]) -> tuple[Any, ...]:
    """The key of an example's randomness: the same whatever the batches are."""
    draw = draws[task, name] = draws.get((task, name), -1) + 1
    return (args.seed, "evaluate", args.split, task, name, draw)


def _edit(module: Any, original: Any, prompts: list[str], keys: list[tuple[Any, ...]]) -> Any:
    from ip2p_lightning.randomness import seed_of

    return module.edit(original, prompts, [seed_of(*key) for key in keys])


def _wrong(batch: Any, pools: Mapping[str, Any], keys: list[tuple[Any, ...]], prompts: str) -> list[str]:
    from ip2p_lightning.randomness import numpy_rng

    found = []
    for task, key in zip(batch.task, keys, strict=True):
        held_out = prompts == "heldout" and bool(pools[task].held_out)
        found.append(pools[task].draw(numpy_rng(*key, "wrong"), held_out=held_out))
    return found


def _write(args: argparse.Namespace, opened: Any, rows: list[dict[str, Any]], sheet: Mapping[str, list[Any]]) -> None:
    from ip2p_lightning.storage import storage_errors

    name, ending = opened.folder.resolve().name, f"{args.split}-{args.prompts}"
    scores, lines = args.run / "scores.csv", args.run / f"scores-{ending}.jsonl"
    found = means(rows, run=name, split=args.split, prompts=args.prompts)
    write_rows(lines, [{"step": opened.step, "weights": args.weights, "seed": args.seed, **row} for row in rows])
    merge(scores, found, afresh=args.overwrite)
    what = f"{args.split} pairs, {args.prompts.replace('heldout', 'held-out')} instructions"
    print(f"{name}, step {opened.step}, {args.weights} weights: {what}\n")
    print(as_table(found))
    print(f"\nscores       {shown(scores)}\nper image    {shown(lines)}")
    if args.sheet_examples:
        picture = args.run / f"sheet-{ending}.png"
        with storage_errors(picture):
            _save_sheet(picture, f"{name}: {what}", sheet)
        print(f"picture      {shown(picture)}")


def _save_sheet(path: Path, title: str, sheet: Mapping[str, list[Any]]) -> None:
    from ip2p_lightning.pictures import contact_sheet, to_pixels
    from ip2p_lightning.storage import write_atomic

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
