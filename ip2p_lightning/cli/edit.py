"""``ip2p-edit``: follow an instruction on photos, with a run or with any diffusers InstructPix2Pix checkpoint."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ip2p_lightning.cli.parser import Parser, add_model_options, at_least, overridden, run, shown
from ip2p_lightning.editing.photos import Job, find_photos, plan_outputs, read_list
from ip2p_lightning.errors import UserError
from ip2p_lightning.system.imports import quiet_libraries

# Likeness to the nearest instruction of a run's tasks; held-out ones have 0.49 and more to trained ones.
FAMILIAR = 0.48
USAGE = "ip2p-edit RUN|PIPELINE IMAGE... PROMPT [-o OUT] [options]"
EXAMPLES = """
arguments:
  RUN|PIPELINE          a run's folder; or a diffusers InstructPix2Pix folder or hub id (the baseline)
  IMAGE...              files, folders (their images, edits left out) and 'globs'
  PROMPT                the instruction, last

The edit has the photo's own name, size and transparency, upright; the model sees transparent parts on white. A latent
model sees the photo at the next smaller multiple of 8, as diffusers' pipeline does; --max-side bounds what the model
sees, not what is written. Photos of one size are edited together; the same seed on the same photo gives the same
pixels, up to 1 of 255, whatever else is edited beside it (to the last bit with --batch-size 1). Each PNG carries the
command, run, seed and prompt.

examples:
  ip2p-edit runs/demo photo.jpg "take the noise out"                       writes photo-edit.png beside it
  ip2p-edit runs/demo photo.jpg "take the noise out" -o clean.png
  ip2p-edit runs/demo holiday/ 'rain/*.jpg' "make it a cartoon" -o out/    out/NAME.png for each
  ip2p-edit runs/demo --prompts wishes.csv -o out/                         an instruction for each photo: photo,prompt
  ip2p-edit runs/cartoon photo.jpg "make it a cartoon" --text-scale 7 --image-scale 1.5 --steps 50
  ip2p-edit timbrooks/instruct-pix2pix holiday/ "make it a cartoon" -o out/ --dtype bfloat16 --throughput

Exit codes: 0 done, 2 usage, 3 bad image, 5 disk or permission, 6 damaged weights, 7 unsafe.
"""


def parser() -> Parser:
    """The command line of ``ip2p-edit``."""
    page = Parser("ip2p-edit", "Follow an instruction on photos.", EXAMPLES, usage=USAGE)
    page.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    out = "FILE.png for one image, a folder for several (default: beside it)"
    page.add_argument("-o", "--out", type=Path, help=out)
    prompts = "csv or jsonl with photo and prompt, in place of IMAGE and PROMPT"
    page.add_argument("--prompts", type=Path, metavar="FILE", help=prompts)
    add_model_options(page)
    page.add_argument("--max-side", type=at_least(8), metavar="PIXELS", help="longest side the model sees")
    at_once = "photos of one size at a time, or auto (default: auto)"
    page.add_argument("--batch-size", type=_batch_size, metavar="N", help=at_once)
    page.add_argument("--throughput", action="store_true", help="print images a second, and where the time went")
    page.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    return run(parser(), _edit, argv)


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else at_least(1)(text)


def _edit(args: argparse.Namespace) -> None:
    model, wanted = _wanted(args)
    jobs = plan_outputs(wanted, args.out, args.overwrite)
    sizes = _sizes(jobs)
    module, described = _open(model, args.weights, list(dict.fromkeys(job.prompt for job in jobs)))
    from ip2p_lightning.editing.editor import BatchEditor, ready
    from ip2p_lightning.editing.photo_batches import make_batches
    from ip2p_lightning.editing.timer import Clock

    sampler = overridden(module, args)
    module = ready(module, args.device, args.dtype, args.compile)
    batches = make_batches(jobs, sizes, module, args.max_side, args.batch_size)
    clock = Clock(module.device if args.throughput else None)
    _edit_all(batches, BatchEditor(module, sampler, args.batch_size, clock), described, args)
    if args.throughput:
        print(clock.summary())


def _wanted(args: argparse.Namespace) -> tuple[str, list[tuple[Path, str]]]:
    """The model, and the photos with their instructions."""
    if args.prompts is not None:
        if len(args.words) != 1:
            raise UserError(f"--prompts names photos and instructions; give RUN alone beside it, not {args.words[1:]}")
        return args.words[0], read_list(args.prompts)
    if len(args.words) < 3:
        raise UserError(f"give a run, at least one image and the instruction: {USAGE}")
    model, *names, prompt = args.words
    if not prompt.strip() or prompt.lower().endswith((".png", ".jpg", ".jpeg", ".webp")):
        raise UserError(f"the last argument is the instruction, not '{prompt}': {USAGE}")
    return model, find_photos(names, prompt)


def _sizes(jobs: Sequence[Job]) -> dict[Path, tuple[int, int]]:
    """(width, height) of each photo; decodes all, so that a bad one is an error before anything is written."""
    from ip2p_lightning.data.image import open_image

    photos = list(dict.fromkeys(job.photo for job in jobs))
    with ThreadPoolExecutor(4) as readers:
        return dict(zip(photos, readers.map(lambda photo: open_image(photo).shape[1::-1], photos), strict=True))


def _edit_all(batches: Sequence[Any], editor: Any, described: str, args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from ip2p_lightning.data.image import with_alpha
    from ip2p_lightning.editing.photo_batches import edit_photos

    text = {"command": args.typed, "run": described, "seed": str(args.seed)}
    form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total} photos [{elapsed}<{remaining}]"
    count = sum(len(batch.jobs) for batch in batches)
    with tqdm(total=count, desc="edit", bar_format=form, disable=None, leave=False) as bar:
        editor.progress = bar.update
        edit_photos(
            batches,
            editor,
            args.seed,
            save=lambda pixels, job: _save(with_alpha(pixels, job.photo), job.out, text | {"prompt": job.prompt}),
            done=lambda job: tqdm.write(f"{shown(job.photo)} -> {shown(job.out)}"),
        )


def _open(path: str, weights: str, prompts: Sequence[str]) -> tuple[Any, str]:
    """The model, and what to call it in the PNG; warns of `prompts` that are unlike what it was trained on."""
    from ip2p_lightning.editing.pipeline import is_pipeline, open_pipeline
    from ip2p_lightning.runs.trained_run import open_run

    pipeline = is_pipeline(path)
    if not pipeline and not Path(path).is_dir():
        raise UserError(f"'{path}' is neither a run's folder nor a diffusers folder or hub id (owner/name)")
    quiet_libraries()
    if pipeline:
        return open_pipeline(path), path
    opened = open_run(path, weights)
    for prompt in unlike(opened, prompts):
        warnings.warn(
            f"'{prompt}' is unlike every instruction that this run was trained on: expect nothing of the edit",
            stacklevel=1,
        )
    return opened.module, f"{path} step {opened.step} {weights}"


def unlike(opened: Any, prompts: Sequence[str]) -> list[str]:
    """Those of `prompts` that are far from all instructions of the run, as far as its text encoder can tell."""
    from ip2p_lightning.config.build import task_prompts

    if not any(task_prompts(opened.config).values()):  # the pairs have their own, which are not known here
        return []
    known = [prompt for pool in task_prompts(opened.config, ("prompts", "held_out")).values() for prompt in pool]
    likeness = getattr(opened.module.text_encoder, "likeness", None)
    found = zip(prompts, likeness(prompts, known), strict=True) if likeness else ()
    return [prompt for prompt, like in found if like < FAMILIAR]


def _save(pixels: Any, out: Path, text: dict[str, str]) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from ip2p_lightning.system.files import storage_errors, write_atomic

    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, lambda file: Image.fromarray(pixels).save(file, "PNG", pnginfo=info))


if __name__ == "__main__":
    sys.exit(main())
