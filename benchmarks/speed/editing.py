"""Many edits: diffusers' InstructPix2Pix pipeline in a loop over photos against ``ip2p-edit``'s batches.

``python -m benchmarks.speed.editing [--size small] [--steps 20] [--rounds 3] [--image-scale 1.5] [--distinct]``

64 crops of scikit-image's photos, four instructions; same checkpoint, scheduler, steps, scales, seeds, in one process
on one thread; from files to PNG files, models already loaded. Each group of photos of one size is edited by one side,
then by the other. Every pixel of both sides is compared.
"""

import contextlib
import ctypes
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.support.command import WORK, options
from benchmarks.support.material import SIZES, crops, write_editor
from ip2p_lightning.cli.edit import _save, _sizes
from ip2p_lightning.diffusion.noise_schedule import checkpoint_schedule
from ip2p_lightning.diffusion.samplers import DiffusionSampler
from ip2p_lightning.editing.editor import BatchEditor, ready
from ip2p_lightning.editing.photo_batches import edit_photos, make_batches
from ip2p_lightning.editing.photos import plan_outputs
from ip2p_lightning.editing.pipeline import open_pipeline
from ip2p_lightning.system.allocator import keep_pages
from ip2p_lightning.system.imports import quiet_libraries

SIDES = [(128, 128), (131, 133), (160, 128), (128, 163), (192, 144), (192, 192), (199, 197), (256, 192)]
SIDES += [(192, 256), (224, 224), (256, 256), (255, 251)]  # width, height: a folder of photos from a few cameras
PROMPTS = ["remove the noise", "make it a cartoon", "brighten the photo", "wipe the rain off"]
SEED, TEXT_SCALE = 7, 7.5
GLIBC = {-3: 32 << 20, -1: 64 << 20}  # where M_MMAP_THRESHOLD and M_TRIM_THRESHOLD end up by themselves


def main(words: Sequence[str] | None = None) -> int:
    """Measure, compare, print: for each group of photos the best, and the median, summed."""
    numbers = {"steps": 20, "rounds": 3, "count": 64, "image_scale": 1.5, "batch_size": 0}  # 0: by size
    asked = options(__doc__, words, size=tuple(SIZES), distinct=False, work=WORK, **numbers)
    torch.set_num_threads(1)
    ours = Ours(asked, write_photos(asked.work / f"photos-{asked.distinct}", asked.distinct, asked.count))
    sides, worst = {"theirs": Stock(asked), "ours": ours}, 0
    found: dict[str, list[list[list[float]]]] = {side: [[] for _ in ours.batches] for side in sides}
    for _ in range(asked.rounds):
        for number, batch in enumerate(ours.batches):
            for side, editor in sides.items():
                found[side][number].append(_clocked(editor, batch))
            worst = max(worst, _difference(asked.work, batch))
    print(f"{asked.count} photos in {len(ours.batches)} groups; largest difference of a pixel: {worst}/255")
    for kind, clock in enumerate(("cpu", "wall")):
        for name, of in (("best", min), ("median", statistics.median)):
            a, b = (sum(of([spent[kind] for spent in group]) for group in found[side]) for side in sides)
            print(f"{clock:4} seconds, {name:6}: {a:.1f} / {b:.1f} = {a / b:.2f}")
    return int(worst > 1)


def write_photos(folder: Path, distinct: bool, count: int) -> list[tuple[Path, str]]:
    """`count` crops, each with one of the instructions; of a dozen sizes, or each of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = [SIDES[number % len(SIDES)] for number in range(count)]
    if distinct:  # 128 to 256: both sides in steps of 16, each pair once
        sides = [(128 + 16 * (n % 8) + n % 5, 128 + 16 * (n // 8) + n % 3) for n in range(count)]
    wanted = [(folder / f"{n:02}.png", PROMPTS[n // 4 % len(PROMPTS)]) for n in range(count)]
    for (path, _), photo in zip(wanted, crops(sides), strict=True):
        photo.save(path)
    return wanted


class Ours:
    """``ip2p-edit``, from where the model has been read."""

    def __init__(self, asked: Namespace, wanted: list[tuple[Path, str]]) -> None:
        path, size = str(write_editor(asked.work, asked.size)), asked.batch_size or None
        module, schedule = ready(open_pipeline(path), "cpu"), checkpoint_schedule(path)
        sampler = DiffusionSampler("ddim", asked.steps, TEXT_SCALE, asked.image_scale, "auto", schedule)
        self.editor = BatchEditor(module, sampler, size)
        jobs = plan_outputs(wanted, asked.work / "ours", overwrite=True)
        self.batches = make_batches(jobs, _sizes(jobs), module, None, size)

    def edit(self, batch: Any) -> None:
        """One batch."""

        keep_pages()
        edit_photos([batch], self.editor, SEED, lambda pixels, job: _save(pixels, job.out, {}), lambda job: None)


class Stock:
    """The pipeline as its users call it."""

    def __init__(self, asked: Namespace) -> None:
        import diffusers

        quiet_libraries()
        self.out = asked.work / "theirs"
        self.out.mkdir(exist_ok=True)
        editor = write_editor(asked.work, asked.size)
        self.pipeline = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(editor)
        self.pipeline.scheduler = diffusers.DDIMScheduler.from_config(self.pipeline.scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)
        self.how = {"num_inference_steps": asked.steps, "guidance_scale": TEXT_SCALE}
        self.how["image_guidance_scale"] = asked.image_scale

    def edit(self, batch: Any) -> None:
        """The photos of a batch, one after the other."""
        as_glibc_does()
        for job in batch.jobs:
            photo, generator = Image.open(job.photo).convert("RGB"), torch.Generator().manual_seed(SEED)
            edited = self.pipeline(job.prompt, photo, generator=generator, **self.how).images[0]
            edited.save(self.out / job.photo.name)


def as_glibc_does() -> None:
    """The thresholds of malloc as they were before ours changed them."""
    with contextlib.suppress(AttributeError):
        libc = ctypes.CDLL(None)
        for name, value in GLIBC.items():
            libc.mallopt(name, value)


def _clocked(side: Ours | Stock, batch: Any) -> list[float]:
    cpu, wall = time.process_time(), time.perf_counter()
    side.edit(batch)
    return [time.process_time() - cpu, time.perf_counter() - wall]


def _difference(work: Path, batch: Any) -> int:
    """The largest difference of any pixel of any photo, in 255ths; theirs brought to the photo's size as ours is."""
    worst = 0
    for job in batch.jobs:
        ours, theirs = (Image.open(work / side / job.photo.name) for side in ("ours", "theirs"))
        theirs = theirs if theirs.size == ours.size else theirs.resize(ours.size, Image.Resampling.LANCZOS)
        a, b = (np.asarray(image).astype(int) for image in (ours, theirs))
        assert b.std() > 5, f"{job.photo}: an edit of one colour proves nothing"
        worst = max(worst, int(np.abs(a - b).max()))
    return worst


if __name__ == "__main__":
    sys.exit(main())
