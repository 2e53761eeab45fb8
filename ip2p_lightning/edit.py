"""``ip2p-edit``: follow an instruction on photos, with a run or with any diffusers InstructPix2Pix checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.commands import Parser, at_least, device, quiet_libraries, run, shown
from ip2p_lightning.errors import UserError
from ip2p_lightning.photos import Fit, Job, plan

USAGE = "ip2p-edit RUN|PIPELINE IMAGE... PROMPT [-o OUT] [options]"
EXAMPLES = """
arguments:
  RUN|PIPELINE          a run's folder; or a diffusers InstructPix2Pix folder or hub id (the baseline)
  IMAGE...              files, folders (their images, edits left out) and 'globs'
  PROMPT                the instruction, last

The edit has the photo's own name and size, upright. A latent model sees the photo at the next smaller multiple of 8,
as diffusers' pipeline does; --max-side bounds what the model sees, not what is written. The same seed on the same
photo gives the same pixels, whatever else is edited beside it. Each PNG carries the command, run, seed and prompt.

examples:
  ip2p-edit runs/demo photo.jpg "take the noise out"                       writes photo-edit.png beside it
  ip2p-edit runs/demo photo.jpg "take the noise out" -o clean.png
  ip2p-edit runs/demo holiday/ 'rain/*.jpg' "make it a cartoon" -o out/    out/NAME.png for each
  ip2p-edit runs/cartoon photo.jpg "make it a cartoon" --text-scale 7 --image-scale 1.5 --steps 50
  ip2p-edit timbrooks/instruct-pix2pix photo.jpg "make it a cartoon" --scheduler euler-a

Exit codes: 0 done, 2 usage, 3 image refused, 5 disk or permission, 6 damaged weights, 7 refused for safety.
"""


def parser() -> Parser:
    """The command line of ``ip2p-edit``."""
    page = Parser("ip2p-edit", "Follow an instruction on photos.", EXAMPLES, usage=USAGE)
    page.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    page.add_argument(
        "-o", "--out", type=Path, help="FILE.png for one image, a folder for several (default: beside it)"
    )
    page.add_argument(
        "--text-scale", type=float, metavar="X", help="how strongly the instruction is followed (default: the run's)"
    )
    page.add_argument(
        "--image-scale", type=float, metavar="X", help="how strongly the photo is kept (default: the run's)"
    )
    page.add_argument("--steps", type=at_least(1), metavar="N", help="sampling steps (default: the run's)")
    page.add_argument("--scheduler", metavar="NAME", help="ddim, dpm++, unipc or euler-a (default: the run's)")
    page.add_argument("--seed", type=at_least(0), metavar="N", default=0, help="of each photo's noise (default: 0)")
    page.add_argument("--max-side", type=at_least(8), metavar="PIXELS", help="longest side the model sees")
    page.add_argument("--weights", choices=("ema", "raw"), default="ema", help="of a run (default: ema)")
    page.add_argument(
        "--batch-size", type=at_least(1), metavar="N", default=1, help="photos of one size at a time (default: 1)"
    )
    page.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ip2p-edit``; returns the exit code."""
    return run(parser(), _edit, argv)


def _edit(args: argparse.Namespace) -> int:
    if len(args.words) < 3:
        raise UserError(f"give a run, at least one image and the instruction: {USAGE}")
    model, *names, prompt = args.words
    if not prompt.strip() or prompt.lower().endswith((".png", ".jpg", ".jpeg", ".webp")):
        raise UserError(f"the last argument is the instruction, not '{prompt}': {USAGE}")
    jobs = plan(names, args.out, args.overwrite)
    _check_photos(jobs)
    module, described = _open(model, args.weights)
    module = device(module)
    sampler = overridden(module.sampler, args)
    text = {"command": args.typed, "run": described, "seed": str(args.seed), "prompt": prompt}
    for group in _groups(jobs, args.batch_size):
        for job, pixels in zip(group, _edited(module, group, prompt, sampler, args), strict=True):
            _save(pixels, job.out, text)
            print(f"{shown(job.photo)} -> {shown(job.out)}")
    return 0


def _check_photos(jobs: Sequence[Job]) -> None:
    from ip2p_lightning.data.image import open_image

    for job in jobs:
        open_image(job.photo)


def _open(path: str, weights: str) -> tuple[Any, str]:
    """The model, and what to call it in the PNG."""
    from ip2p_lightning.pipeline import is_pipeline, open_pipeline
    from ip2p_lightning.runs import open_run

    if not is_pipeline(path):
        if not Path(path).is_dir():
            raise UserError(f"'{path}' is neither a run's folder nor a diffusers folder or hub id (owner/name)")
        quiet_libraries()
        opened = open_run(path, weights)
        return opened.module, f"{path} step {opened.step} {weights}"
    quiet_libraries()
    return open_pipeline(path), path


def overridden(sampler: Any, args: argparse.Namespace) -> Any:
    """A sampler like `sampler`, with the settings that were given.

    Raises:
        UserError: a setting that it does not have, or a value out of range.
    """
    names = ("text_scale", "image_scale", "steps", "scheduler")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for name in given:
        if name not in vars(sampler):
            option = name.replace("_", "-")
            raise UserError(f"--{option} does not apply: {type(sampler).__name__}, this run's sampler, has no {name}")
    return type(sampler)(**(vars(sampler) | given))


def _groups(jobs: Sequence[Job], batch_size: int) -> Iterator[list[Job]]:
    """Jobs in batches of one photo size, in order as far as that allows."""
    from tqdm.auto import tqdm

    from ip2p_lightning.data.image import open_image

    by_size: dict[tuple[int, ...], list[Job]] = {}
    for job in jobs if batch_size > 1 else ():
        by_size.setdefault(open_image(job.photo).shape, []).append(job)
    same = by_size.values() if batch_size > 1 else [list(jobs)]
    groups = [group[i : i + batch_size] for group in same for i in range(0, len(group), batch_size)]
    yield from tqdm(groups, desc="edit", unit="batch", disable=None if len(groups) > 1 else True)


def _edited(module: Any, group: Sequence[Job], prompt: str, sampler: Any, args: argparse.Namespace) -> list[Any]:
    """The edits of photos of one size, at that size.  -> [H W 3] uint8 each"""
    import torch

    from ip2p_lightning.data.image import open_image

    photos = [open_image(job.photo) for job in group]
    fit = Fit.of(photos[0], module, args.max_side)
    original = torch.stack([fit.to_model(photo) for photo in photos]).to(module.device)
    try:
        edits = module.edit(original, [prompt] * len(group), [args.seed] * len(group), sampler)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        width, height = fit.model
        raise UserError(f"{group[0].photo}: not enough memory for {width} x {height} pixels; give --max-side") from None
    return [fit.back(edit) for edit in edits]


def _save(pixels: Any, out: Path, text: dict[str, str]) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from ip2p_lightning.storage import storage_errors, write_atomic

    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, lambda file: Image.fromarray(pixels).save(file, "PNG", pnginfo=info))


if __name__ == "__main__":
    sys.exit(main())
