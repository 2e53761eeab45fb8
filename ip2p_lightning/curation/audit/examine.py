"""Examine one candidate: read, decode and compare its images, make the missing one, encode."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import xxhash

from ip2p_lightning.curation.audit.alignment import displacement
from ip2p_lightning.curation.audit.perceptual_hash import PerceptualHash, perceptual_hash
from ip2p_lightning.curation.audit.policy import Audit, decoded, png, psnr
from ip2p_lightning.curation.origins.base import Candidate, Origin, Rejection
from ip2p_lightning.data.prompts import PromptPool, cleaned_prompt
from ip2p_lightning.data.sources.base import Maker, makes
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError, SecurityError, UserError
from ip2p_lightning.rng import numpy_rng

CLEAN_ORIGINAL = ("cartoon",)  # tasks whose photo is the original; the others restore one


@dataclass(frozen=True)
class Part:
    """One task of a dataset: its source, prompts and degradation or teacher.

    short_side: photos from which a side is made are scaled down to this; upstream's cartoon teacher did the same.
    limit: how many candidates to draw; None for all.
    splits: published splits to take; None for all.
    make_config: the config of `make`, for the record.
    """

    task: str
    origin: Origin
    prompts: PromptPool
    make: Maker | None
    short_side: int | None = 720
    seed: int = 0
    limit: int | None = None
    splits: Sequence[str] | None = None
    make_config: Any = None

    @property
    def clean(self) -> int:
        """Which side is the source photo: 0 the original, 1 the edited one."""
        made = makes(self.make) == "edited" if self.make else False
        return 0 if made or self.task in CLEAN_ORIGINAL else 1


class Side(NamedTuple):
    """One image of a pair."""

    content: bytes  # as it will be stored
    pixels: np.ndarray
    name: str  # in the dataset
    sha256: str  # of the source file; empty for a made image
    kept: bool  # whether the source file's own bytes are stored


class Example(NamedTuple):
    """An accepted candidate."""

    images: tuple[tuple[str, bytes], tuple[str, bytes]]
    """Name and bytes of original and edited."""
    prompt: str
    facts: dict[str, Any]
    """For the report: hashes, size, PSNR."""
    pixel_hashes: tuple[str, ...]
    """Hashes of the pixels of both sides, the original or source photo first; a flat one has none."""
    hash: PerceptualHash


class _RejectedError(Exception):
    """Of path, stage and reason."""


def examine(candidate: Candidate, part: Part, audit: Audit, count: Callable[[str], int]) -> Example | Rejection:
    """An example made from a candidate, or why there is none; no content of a file raises.

    Raises SecurityError: a path leads out of the source; UserError: the task cannot make the missing side of any pair.
    """
    try:
        prompt = _prompt(candidate, part)
        original, edited, noted = _sides(candidate, part, audit)
        if audit.identical == "refuse" and np.array_equal(original.pixels, edited.pixels):
            raise _RejectedError(_path(candidate), "pair", "the two images are identical")
        return _example((original, edited), prompt, part, noted, count(prompt))
    except _RejectedError as error:
        return Rejection(f"{part.task}/{candidate.id}", *error.args)


def _prompt(candidate: Candidate, part: Part) -> str:
    if candidate.prompt is None:
        return part.prompts.draw(numpy_rng(part.seed, "build", part.task, candidate.id, "prompt"))
    try:
        return cleaned_prompt(candidate.prompt, "it")
    except DataError as error:
        raise _RejectedError(_path(candidate), "prompt", str(error)) from None


def _sides(candidate: Candidate, part: Part, audit: Audit) -> tuple[Side, Side, dict[str, Any]]:
    if candidate.original is not None and candidate.edited is not None:
        places = (candidate.original, candidate.edited)
        original, edited = (_stored(p, known, part, audit) for p, known in zip(places, candidate.sha256, strict=True))
        return original, edited, _compared(candidate, original.pixels, edited.pixels, audit)
    if part.make is None:
        raise UserError(f"task {part.task} has no degradation or teacher, and {part.origin.name} only clean photos")
    photo = _scaled(_stored(_path(candidate), None, part, audit), part.short_side)
    rng = numpy_rng(part.seed, "build", part.task, candidate.id, "image")
    made = _encoded(_to_uint8(part.make(photo.pixels.astype(np.float32) / np.float32(255), rng)), photo.name)
    return (*((photo, made) if makes(part.make) == "edited" else (made, photo)), {})


def _path(candidate: Candidate) -> str:
    return candidate.original or candidate.edited or ""


def _stored(place: str, known: str | None, part: Part, audit: Audit) -> Side:
    try:
        content = part.origin.read(place, audit.bytes)
    except SecurityError as error:
        raise SecurityError(f"{place}: {error}") from None
    except DataError as error:
        raise _RejectedError(place, "read", str(error)) from None
    digest = hashlib.sha256(content).hexdigest()
    if known is not None and known.lower() != digest:
        raise _RejectedError(place, "read", "its sha256 is not the one in the manifest")
    try:
        pixels, kept = decoded(content, audit)
    except DataError as error:
        raise _RejectedError(place, "decode", str(error)) from None
    if kept:
        return Side(content, pixels, PurePosixPath(place).name, digest, True)
    return _encoded(pixels, place, digest)


def _encoded(pixels: np.ndarray, name: str, digest: str = "") -> Side:
    return Side(png(pixels), pixels, f"{PurePosixPath(name).stem}.png", digest, False)


def _compared(candidate: Candidate, a: np.ndarray, b: np.ndarray, audit: Audit) -> dict[str, Any]:
    if a.shape != b.shape:
        sizes = " and ".join(f"{image.shape[1]} x {image.shape[0]}" for image in (a, b))
        turned = ", one of them turned" if a.shape[:2] == b.shape[1::-1] else ""
        raise _RejectedError(_path(candidate), "pair", f"sizes differ, {sizes} pixels{turned}")
    moved = displacement(a, b) if audit.shift != "off" else (0, 0)
    if moved == (0, 0):
        return {}
    if audit.shift == "refuse":
        why = f"the edited image is shifted by {moved[0]} rows and {moved[1]} columns"
        raise _RejectedError(_path(candidate), "pair", why)
    return {"shift": list(moved)}


def _scaled(photo: Side, short_side: int | None) -> Side:
    short = min(photo.pixels.shape[:2])
    if short_side is None or short <= short_side:
        return photo
    whole = View(size=None, resize=(short_side, short_side))
    return _encoded(_to_uint8(whole([photo.pixels], numpy_rng("build", "scale"))[0]), photo.name, photo.sha256)


def _to_uint8(image: np.ndarray) -> np.ndarray:  # float32 in [0, 1] -> uint8
    return np.ascontiguousarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _example(sides: tuple[Side, Side], prompt: str, part: Part, noted: dict[str, Any], tokens: int) -> Example:
    height, width = sides[0].pixels.shape[:2]
    score = psnr(sides[0].pixels, sides[1].pixels)
    facts = {"width": width, "height": height, "psnr": None if score == float("inf") else round(score, 2)}
    for name, side in zip(("original", "edited"), sides, strict=True):
        facts[name] = {"sha256": side.sha256, "kept": side.kept} if side.sha256 else "made"
    photo_first = sorted(sides, key=lambda side: not side.sha256)  # the original, or the photo that it was made of
    pixel_hashes = tuple(_pixel_hash(side.pixels) for side in photo_first if np.ptp(side.pixels) > 3)
    original, edited = ((side.name, side.content) for side in sides)
    facts |= {"tokens": tokens} | noted
    return Example((original, edited), prompt, facts, pixel_hashes, perceptual_hash(sides[part.clean].pixels))


def _pixel_hash(pixels: np.ndarray) -> str:
    digest = xxhash.xxh3_128(repr(pixels.shape).encode())  # not for security: it only groups photos
    digest.update(pixels.data)  # not .tobytes(): that would copy 120 MB of a large photo
    return digest.hexdigest()
