"""Pairs a second of ``ip2p-data build`` against plain PIL and ``datasets.Dataset.from_generator`` doing the same work.

The same work: every pair is read from two PNG files, both sides are decoded in full and compared in size, a prompt is
drawn, and the files' own bytes go into Parquet with Image features. The builder also hashes, audits, looks for
displacement and lookalikes, and divides into splits: the ratio says what that costs. The two take turns in one process
on one thread; CPU seconds and wall seconds, the ratio of the minima and the median of the ratios.

    OMP_NUM_THREADS=1 python -m benchmarks.builder [--pairs 200] [--size 256] [--rounds 7]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def make_pairs(root: Path, count: int, size: int) -> None:
    """PNG pairs with texture, from a seed."""
    rng = np.random.default_rng(0)
    for side in ("input", "target"):
        (root / side).mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        clean = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
        clean += rng.integers(-8, 9, clean.shape, dtype=np.int16)
        rain = (rng.random((size, size, 1)) > 0.97) * 80
        for side, image in (("target", clean), ("input", clean + rain)):
            picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
            picture.save(root / side / f"{i:05d}.png", compress_level=3)


def plain(root: Path, out: Path) -> None:
    """What one would write without the builder."""
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(0)
        for path in sorted((root / "input").iterdir()):
            other = root / "target" / path.name
            sides = [file.read_bytes() for file in (path, other)]
            before, after = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in sides)
            assert before.shape == after.shape
            prompt = ("derain the image", "remove the rain")[int(rng.integers(2))]
            images = [{"bytes": content, "path": path.name} for content in sides]
            yield {"original_image": images[0], "edit_prompt": prompt, "edited_image": images[1], "id": path.stem}

    features = datasets.Features(
        original_image=datasets.Image(), edit_prompt=datasets.Value("string"), edited_image=datasets.Image(),
        id=datasets.Value("string"),
    )  # fmt: skip
    table = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(out / "cache"))
    table.to_parquet(str(out / "train.parquet"))


def built(root: Path, out: Path) -> None:
    """The builder, with all its checks."""
    from ip2p_lightning.curation.audit.examine import Part
    from ip2p_lightning.curation.audit.policy import Audit
    from ip2p_lightning.curation.build import build
    from ip2p_lightning.curation.plan import Order
    from ip2p_lightning.curation.sources.folder_layout import FolderOrigin
    from ip2p_lightning.data.prompts import PromptPool

    patterns = {"original": "input/{name}", "edited": "target/{name}"}
    source = FolderOrigin("bench", str(root), [{"any": patterns}], 0.1, 0.1)
    build(Order([Part("derain", source, PromptPool(["derain the image", "remove the rain"]), None)], Audit()), out)


def seconds(work: Callable[[Path, Path], None], root: Path, out: Path) -> tuple[float, float]:
    """CPU and wall seconds that one of them takes, from an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    start = time.process_time(), time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        work(root, out)
    return time.process_time() - start[0], time.perf_counter() - start[1]


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("pairs", 200), ("size", 256), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "in", Path(folder) / "out"
        make_pairs(root, args.pairs, args.size)
        for work in (plain, built):
            seconds(work, root, out)  # imports, caches
        times = [(seconds(plain, root, out), seconds(built, root, out)) for _ in range(args.rounds)]
    print(json.dumps({"benchmark": "builder", "pairs": args.pairs, "size": args.size} | told(times, args.pairs)))


def told(times: list[tuple[tuple[float, float], tuple[float, float]]], pairs: int) -> dict[str, dict[str, float]]:
    """Pairs a second of either side at its best, and how fast ours is against the plain one."""
    found = {}
    for number, clock in enumerate(("CPU", "wall")):
        plain_ones, ours = ([round_[side][number] for round_ in times] for side in (0, 1))
        found[clock] = {
            "plain, pairs/s": round(pairs / min(plain_ones), 1),
            "builder, pairs/s": round(pairs / min(ours), 1),
            "ratio of minima": round(min(plain_ones) / min(ours), 3),
            "median ratio": round(statistics.median(a / b for a, b in zip(plain_ones, ours, strict=True)), 3),
        }
    return found


if __name__ == "__main__":
    main()
