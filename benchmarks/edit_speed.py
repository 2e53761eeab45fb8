"""Many edits: diffusers' InstructPix2Pix pipeline in a loop over photos against ``ip2p-edit``'s batches.

``python -m benchmarks.edit_speed [--size small] [--steps 20] [--rounds 3] [--image-scale 1.5] [--distinct]``

64 crops of scikit-image's photos, four instructions; same checkpoint, scheduler, steps, scales, seeds, in one process
on one thread; from files to PNG files, models already loaded. Each group of photos of one size is edited by one side,
then by the other. Every pixel of both sides is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import ip2p_lightning  # noqa: F401  makes torchvision importable
from benchmarks.material import SIZES, write_editor

SIDES = [(128, 128), (131, 133), (160, 128), (128, 163), (192, 144), (192, 192), (199, 197), (256, 192)]
SIDES += [(192, 256), (224, 224), (256, 256), (255, 251)]  # width, height: a folder of photos from a few cameras
PROMPTS = ["remove the noise", "make it a cartoon", "brighten the photo", "wipe the rain off"]
COUNT, SEED, TEXT_SCALE = 64, 7, 7.5
RESULTS = "edit_speed.jsonl"
GLIBC = {-3: 32 << 20, -1: 64 << 20}  # where M_MMAP_THRESHOLD and M_TRIM_THRESHOLD end up by themselves


def main(words: Sequence[str] | None = None) -> int:
    """Measure, compare, print; what was measured is added to ``WORK/edit_speed.jsonl``, and all of it is reported."""
    options = _options(words)
    torch.set_num_threads(1)
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    wanted = write_photos(work / ("distinct" if options.distinct else "photos"), options.distinct, options.count)
    ours, theirs = Ours(options, wanted), Stock(options)
    for _ in range(options.rounds):
        for number, batch in list(enumerate(ours.batches))[options.part - 1 :: options.parts]:
            spent = {name: _clocked(side, batch) for name, side in (("theirs", theirs), ("ours", ours))}
            found = {"group": number, "photos": len(batch.jobs), "difference": _difference(work, batch), **spent}
            with (work / RESULTS).open("a") as file:
                file.write(json.dumps({**vars(options), "of": len(ours.batches)} | found) + "\n")
    return report(work, options)


def report(work: Path, options: argparse.Namespace) -> int:
    """All that was measured with these options: for each group of photos the best, and the median, summed."""
    same = {key: value for key, value in vars(options).items() if key not in ("rounds", "work", "part", "parts")}
    lines = [json.loads(line) for line in (work / RESULTS).read_text().splitlines()]
    lines = [line for line in lines if all(line[key] == value for key, value in same.items())]
    groups: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line["group"], []).append(line)
    worst = max(line["difference"] for line in lines)
    photos, times = sum(group[0]["photos"] for group in groups.values()), sorted(map(len, groups.values()))
    print(f"{same}\n{photos} photos in {len(groups)} of {lines[0]['of']} groups, each {times[0]} to {times[-1]} times")
    print(f"largest difference of a pixel: {worst}/255")
    for clock in ("cpu", "wall"):
        for name, how in (("best", min), ("median", statistics.median)):
            a, b = (sum(how([x[s][clock] for x in group]) for group in groups.values()) for s in ("theirs", "ours"))
            print(f"{clock:4} seconds, {name:6}: {a:.1f} / {b:.1f} = {a / b:.2f}")
    return int(worst > 1)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", type=int, default=1, help="only the groups of part PART of PARTS")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--image-scale", type=float, default=1.5)
    parser.add_argument("--batch-size", type=int, help="of ours (default: by size)")
    parser.add_argument("--distinct", action="store_true", help="no two photos of one size")
    parser.add_argument("--work", default="/tmp/ip2p-bench")
    return parser.parse_args(words)


def write_photos(folder: Path, distinct: bool, count: int) -> list[tuple[Path, str]]:
    """`count` crops, each with one of the instructions; of a dozen sizes, or each of its own."""
    import skimage.data

    folder.mkdir(parents=True, exist_ok=True)
    photos = [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    rng, wanted = np.random.default_rng(0), []
    for number in range(count):
        width, height = SIDES[number % len(SIDES)]
        if distinct:  # 128 to 256: both sides in steps of 16, each pair once
            width, height = 128 + 16 * (number % 8) + number % 5, 128 + 16 * (number // 8) + number % 3
        photo = photos[number % len(photos)]
        top, left = (
            int(rng.integers(0, have - want + 1)) for have, want in zip(photo.shape[:2], (height, width), strict=True)
        )
        path = folder / f"{number:02}.png"
        Image.fromarray(photo[top : top + height, left : left + width]).save(path)
        wanted.append((path, PROMPTS[number // len(photos) % len(PROMPTS)]))
    return wanted


class Ours:
    """``ip2p-edit``, from where the model has been read."""

    def __init__(self, options: argparse.Namespace, wanted: list[tuple[Path, str]]) -> None:
        from ip2p_lightning.cli.edit import _sizes
        from ip2p_lightning.diffusion import DiffusionSampler, checkpoint_schedule
        from ip2p_lightning.editing.editor import BatchEditor, ready
        from ip2p_lightning.editing.photo_batches import batched
        from ip2p_lightning.editing.photos import plan
        from ip2p_lightning.editing.pipeline import open_pipeline

        path = str(write_editor(Path(options.work) / f"editor-{options.size}", options.size))
        module = ready(open_pipeline(path), "cpu")
        sampler = DiffusionSampler(
            "ddim", options.steps, TEXT_SCALE, options.image_scale, "auto", checkpoint_schedule(path)
        )
        self.editor = BatchEditor(module, sampler, options.batch_size)
        jobs = plan(wanted, Path(options.work) / "ours", overwrite=True)
        self.batches = batched(jobs, _sizes(jobs), module, None, options.batch_size)

    def edit(self, batch: Any) -> None:
        """One batch."""
        from ip2p_lightning.cli.edit import _save
        from ip2p_lightning.editing.photo_batches import edit_photos
        from ip2p_lightning.system.allocator import keep_pages

        keep_pages()
        edit_photos([batch], self.editor, SEED, lambda pixels, job: _save(pixels, job.out, {}), lambda job: None)


class Stock:
    """The pipeline as its users call it."""

    def __init__(self, options: argparse.Namespace) -> None:
        import diffusers

        from ip2p_lightning.system.imports import quiet_libraries

        quiet_libraries()
        self.options = options
        self.out = Path(options.work) / "theirs"
        self.out.mkdir(exist_ok=True)
        path = Path(options.work) / f"editor-{options.size}"
        self.pipeline = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(path)
        self.pipeline.scheduler = diffusers.DDIMScheduler.from_config(self.pipeline.scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)

    def edit(self, batch: Any) -> None:
        """The photos of a batch, one after the other."""
        as_glibc_does()
        for job in batch.jobs:
            edited = self.pipeline(
                job.prompt,
                Image.open(job.photo).convert("RGB"),
                num_inference_steps=self.options.steps,
                guidance_scale=TEXT_SCALE,
                image_guidance_scale=self.options.image_scale,
                generator=torch.Generator().manual_seed(SEED),
            ).images[0]
            edited.save(self.out / job.photo.name)


def as_glibc_does() -> None:
    """The thresholds of malloc as they were before ours changed them."""
    with contextlib.suppress(AttributeError):
        libc = ctypes.CDLL(None)
        for name, value in GLIBC.items():
            libc.mallopt(name, value)


def _clocked(side: Ours | Stock, batch: Any) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    side.edit(batch)
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def _difference(work: Path, batch: Any) -> int:
    """The largest difference of any pixel of any photo, in 255ths; theirs brought to the photo's size as ours is."""
    worst = 0
    for job in batch.jobs:
        ours, theirs = (Image.open(work / side / job.photo.name) for side in ("ours", "theirs"))
        if theirs.size != ours.size:
            theirs = theirs.resize(ours.size, Image.Resampling.LANCZOS)
        a, b = (np.asarray(image).astype(int) for image in (ours, theirs))
        assert b.std() > 5, f"{job.photo}: an edit of one colour proves nothing"
        worst = max(worst, int(np.abs(a - b).max()))
    return worst


if __name__ == "__main__":
    sys.exit(main())
