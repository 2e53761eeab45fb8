"""Edit photo files in batches of one size; reading and writing overlap with the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ip2p_lightning.data.image import open_image
from ip2p_lightning.editing.editor import BatchEditor, images_at_once, out_of_memory
from ip2p_lightning.editing.geometry import Fit
from ip2p_lightning.editing.photos import Job
from ip2p_lightning.errors import UserError

UNWRITTEN = 16  # most edits that wait to be written


class PhotoBatch(NamedTuple):
    """Photos that the model sees at one size, whatever their own sizes are."""

    jobs: list[Job]
    fits: list[Fit]


def make_batches(
    jobs: Sequence[Job], sizes: dict[Path, tuple[int, int]], module: Any, max_side: int | None, at_once: int | None
) -> list[PhotoBatch]:
    """Jobs in batches of one size, in order as far as possible: padding would change the edits.

    `sizes` holds (width, height) of each photo; `at_once` is the most photos in a batch, None = by their size.
    """
    groups: dict[tuple[int, int], PhotoBatch] = {}
    for job in jobs:
        fit = Fit.of(sizes[job.photo], module, max_side)
        group = groups.setdefault(fit.model, PhotoBatch([], []))
        group.jobs.append(job)
        group.fits.append(fit)
    batches = []
    for (width, height), group in groups.items():
        most, photos = at_once or images_at_once(module.device, width * height), len(group.jobs)
        count = -(-photos // -(-photos // most))  # five photos, at most four: three and two
        starts = range(0, photos, count)
        batches += [PhotoBatch(group.jobs[i : i + count], group.fits[i : i + count]) for i in starts]
    return batches


def edit_photos(
    batches: Sequence[PhotoBatch],
    editor: BatchEditor,
    seed: int,
    save: Callable[[np.ndarray, Job], None],
    done: Callable[[Job], None],
) -> None:
    """Edit all batches; the next one is read, and the last one written, while this one is computed.

    `save` writes an edit [H W 3] uint8, in a thread of its own; `done` is called with each job whose edit is written,
    in order. Raises UserError for too little memory, and what reading or saving raised: earlier edits are written.
    """

    def write(job: Job, fit: Fit, edit: Tensor) -> None:
        with editor.clock("save"):
            save(fit.back(edit), job)

    unwritten: deque[tuple[Job, Future[None]]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        try:
            reading = reader.submit(_read, batches[0], editor) if batches else None
            for number, batch in enumerate(batches):
                with editor.clock("wait"):
                    original = reading.result()
                reading = reader.submit(_read, batches[number + 1], editor) if batch is not batches[-1] else None
                edits = _edited(batch, original, editor, seed)
                for job, fit, edit in zip(batch.jobs, batch.fits, edits, strict=True):
                    unwritten.append((job, writer.submit(write, job, fit, edit)))
                _drain(unwritten, done, UNWRITTEN)
            with editor.clock("wait"):
                _drain(unwritten, done, 0)
        finally:
            for job, written in unwritten:  # after an error or an interrupt
                if written.exception() is None:
                    done(job)


def _read(batch: PhotoBatch, editor: BatchEditor) -> Tensor:  # -> [B 3 H W]
    with editor.clock("load"):
        return torch.stack([fit.to_model(open_image(job.photo)) for job, fit in zip(*batch, strict=True)])


def _edited(batch: PhotoBatch, original: Tensor, editor: BatchEditor, seed: int) -> Tensor:
    try:
        return editor.edit(original, [job.prompt for job in batch.jobs], [seed] * len(original))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        (width, height), photo = batch.fits[0].model, batch.jobs[0].photo
        raise UserError(f"{photo}: not enough memory for {width} x {height} pixels; give --max-side") from None


def _drain(unwritten: deque[tuple[Job, Future[None]]], done: Callable[[Job], None], most: int) -> None:
    """Call `done` for the edits that are written, and wait until at most `most` are not."""
    while unwritten and (len(unwritten) > most or unwritten[0][1].done()):
        job, written = unwritten.popleft()
        written.result()
        done(job)
