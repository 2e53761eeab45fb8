"""Images and folders for the tests of building: made from seeds, so that every run sees the same bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from ip2p_lightning.rng import numpy_rng


def scene(*key: int | str, size: tuple[int, int] = (64, 64)) -> np.ndarray:  # (width, height) -> [H W 3] uint8
    """A picture with large shapes and some texture, unlike that of any other key."""
    rng = numpy_rng("scene", *key)
    width, height = size
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    for _ in range(4):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        image[y : y + height // 3, x : x + width // 3] = rng.integers(0, 256, 3)
    fine = Image.fromarray(rng.integers(0, 40, (height // 2, width // 2), dtype=np.uint8)).resize(size)
    return np.clip(image + np.asarray(fine)[..., None] - 20, 0, 255).astype(np.uint8)


def rained(clean: np.ndarray, *key: int | str) -> np.ndarray:
    """The picture with something over it."""
    rng = numpy_rng("rain", *key)
    streaks = (rng.random(clean.shape[:2]) > 0.97)[..., None] * 90
    return np.clip(clean.astype(np.int16) + streaks, 0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Write an image by its ending, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"compress_level": 1} if path.suffix == ".png" else {}) | options)
    return path


def pairs_folder(root: Path, count: int, size: tuple[int, int] = (64, 64), name: str = "p{:05d}") -> Path:
    """``input`` and ``target`` with `count` good pairs."""
    for i in range(count):
        clean = scene(i, size=size)
        save(root / "target" / f"{name.format(i)}.png", clean)
        save(root / "input" / f"{name.format(i)}.png", rained(clean, i))
    return root


def derain(root: Path, out: Path, *more: object) -> list[str]:
    """The arguments of ``ip2p-data build`` for a folder of pairs."""
    return ["task=derain", "source=folder", f"source.root={root}", f"out={out}", *map(str, more)]


def read_report(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``report.jsonl``."""
    return [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]


def read_rows(folder: Path, files: str = "*") -> list[dict[str, Any]]:
    """The rows of a dataset's Parquet files."""
    return [row for path in sorted((folder / "data").glob(files)) for row in pq.read_table(path).to_pylist()]


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file by its path: equal trees are equal datasets."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
