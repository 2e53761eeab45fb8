"""One candidate: read, decode, compare, make what is missing, encode."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import xxhash

from ip2p_lightning.curation.audit.alignment import displacement
from ip2p_lightning.curation.audit.perceptual_hash import Likeness, likeness
from ip2p_lightning.curation.audit.policy import Audit, decoded, png, psnr
from ip2p_lightning.curation.sources.base import Candidate, Origin, Refusal
from ip2p_lightning.data.prompts import PromptPool, cleaned_prompt
from ip2p_lightning.data.sources.base import Maker, makes
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError, SecurityError, UserError
from ip2p_lightning.rng import numpy_rng

CLEAN_ORIGINAL = ("cartoon",)  # tasks whose photo is the original; the others restore one


@dataclass(frozen=True)
class Part:
    """One task of a dataset: where its candidates come from and what is done with them."""

    task: str
    origin: Origin
    prompts: PromptPool
    make: Maker | None
    short_side: int | None = 720
    """Photos from which a side is made are scaled down to this; upstream's cartoon teacher did the same."""
    seed: int = 0

    @property
    def clean(self) -> int:
        """Which side is the source photo: 0 the original, 1 the edited one."""
        made = makes(self.make) == "edited" if self.make else False
        return 0 if made or self.task in CLEAN_ORIGINAL else 1


class Side(NamedTuple):
    """One image of a pair."""

    content: bytes
    """As it will be stored."""
    pixels: np.ndarray
    name: str
    """File name in the dataset."""
    sha256: str
    """Of the source file; empty for a made image."""
    kept: bool
    """Whether the source file's own bytes are stored."""


class Example(NamedTuple):
    """An accepted candidate."""

    images: tuple[tuple[str, bytes], tuple[str, bytes]]
    """Name and bytes of original and edited."""
    prompt: str
    facts: dict[str, Any]
    """For the report: hashes, size, PSNR."""
    prints: tuple[str, ...]
    """Hashes of the pixels of either side; a flat one has none."""
    likeness: Likeness


class _RefusedError(Exception):
    def __init__(self, path: str, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.stage, self.reason = path, stage, reason


def examine(candidate: Candidate, part: Part, audit: Audit, count: Callable[[str], int]) -> Example | Refusal:
    """Make an example of a candidate, or say why not. Never raises for what is in a file.

    Raises:
        SecurityError: a path that leads out of the source.
        UserError: both sides are there but the task cannot make one, or the like: the same for every candidate.
    """
    try:
        prompt = _prompt(candidate, part)
        original, edited, noted = _sides(candidate, part, audit)
        if audit.identical == "refuse" and np.array_equal(original.pixels, edited.pixels):
            raise _RefusedError(_path(candidate), "pair", "the two images are identical")
        return _example((original, edited), prompt, part, noted, count(prompt))
    except _RefusedError as error:
        return Refusal(f"{part.task}/{candidate.id}", error.path, error.stage, error.reason)


def _prompt(candidate: Candidate, part: Part) -> str:
    if candidate.prompt is None:
        return part.prompts.draw(numpy_rng(part.seed, "build", part.task, candidate.id, "prompt"))
    try:
        return cleaned_prompt(candidate.prompt, "it")
    except DataError as error:
        raise _RefusedError(_path(candidate), "prompt", str(error)) from None


def _sides(candidate: Candidate, part: Part, audit: Audit) -> tuple[Side, Side, dict[str, Any]]:
    if candidate.original is not None and candidate.edited is not None:
        places = (candidate.original, candidate.edited)
        original, edited = (_stored(p, known, part, audit) for p, known in zip(places, candidate.sha256, strict=True))
        return original, edited, _compared(candidate, original.pixels, edited.pixels, audit)
    if part.make is None:
        raise UserError(f"task {part.task} has no degradation or teacher, and {part.origin.name} only clean photos")
    photo = _scaled(_stored(_path(candidate), None, part, audit), part.short_side)
    made = _made(photo, candidate, part)
    return (*((photo, made) if makes(part.make) == "edited" else (made, photo)), {})


def _path(candidate: Candidate) -> str:
    return candidate.original or candidate.edited or ""


def _stored(place: str, known: str | None, part: Part, audit: Audit) -> Side:
    try:
        content = part.origin.read(place, audit.bytes)
    except SecurityError as error:
        raise SecurityError(f"{place}: {error}") from None
    except DataError as error:
        raise _RefusedError(place, "read", str(error)) from None
    digest = hashlib.sha256(content).hexdigest()
    if known is not None and known.lower() != digest:
        raise _RefusedError(place, "read", "its sha256 is not the one in the manifest")
    try:
        pixels, kept = decoded(content, audit)
    except DataError as error:
        raise _RefusedError(place, "decode", str(error)) from None
    name = PurePosixPath(place)
    return Side(content if kept else png(pixels), pixels, name.name if kept else f"{name.stem}.png", digest, kept)


def _compared(candidate: Candidate, a: np.ndarray, b: np.ndarray, audit: Audit) -> dict[str, Any]:
    if a.shape != b.shape:
        sizes = " and ".join(f"{image.shape[1]} x {image.shape[0]}" for image in (a, b))
        turned = ", one of them turned" if a.shape[:2] == b.shape[1::-1] else ""
        raise _RefusedError(_path(candidate), "pair", f"sizes differ, {sizes} pixels{turned}")
    moved = displacement(a, b) if audit.shift != "off" else (0, 0)
    if moved == (0, 0):
        return {}
    if audit.shift == "refuse":
        why = f"the edited image is shifted by {moved[0]} rows and {moved[1]} columns"
        raise _RefusedError(_path(candidate), "pair", why)
    return {"shift": list(moved)}


def _scaled(photo: Side, short_side: int | None) -> Side:
    short = min(photo.pixels.shape[:2])
    if short_side is None or short <= short_side:
        return photo
    whole = View(size=None, resize=(short_side, short_side))
    pixels = _bytes(whole([photo.pixels], numpy_rng("build", "scale"))[0])
    return photo._replace(content=png(pixels), pixels=pixels, name=f"{PurePosixPath(photo.name).stem}.png", kept=False)


def _made(photo: Side, candidate: Candidate, part: Part) -> Side:
    rng = numpy_rng(part.seed, "build", part.task, candidate.id, "image")
    assert part.make is not None
    pixels = _bytes(part.make(photo.pixels.astype(np.float32) / np.float32(255), rng))
    return Side(png(pixels), pixels, f"{PurePosixPath(photo.name).stem}.png", "", False)


def _bytes(image: np.ndarray) -> np.ndarray:  # float32 in [0, 1] -> uint8
    return np.ascontiguousarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _example(sides: tuple[Side, Side], prompt: str, part: Part, noted: dict[str, Any], tokens: int) -> Example:
    height, width = sides[0].pixels.shape[:2]
    score = psnr(sides[0].pixels, sides[1].pixels)
    facts = {"width": width, "height": height, "psnr": None if score == float("inf") else round(score, 2)}
    for name, side in zip(("original", "edited"), sides, strict=True):
        facts[name] = {"sha256": side.sha256, "kept": side.kept} if side.sha256 else "made"
    prints = tuple(_print(side.pixels) for side in sides if np.ptp(side.pixels) > 3)
    images = tuple((side.name, side.content) for side in sides)
    return Example(images, prompt, facts | {"tokens": tokens} | noted, prints, likeness(sides[part.clean].pixels))


def _print(pixels: np.ndarray) -> str:
    digest = xxhash.xxh3_128(repr(pixels.shape).encode())  # it groups photos and guards nothing
    digest.update(pixels)  # not .tobytes(): a photo of 40 megapixels needs no second copy
    return digest.hexdigest()
