"""Pairs a second of ``ip2p-data build`` against plain PIL and ``datasets.Dataset.from_generator`` doing the same work.

``python -m benchmarks.speed.curation [--pairs 200] [--size 256] [--rounds 7]``: every pair is read from two PNG files,
both sides are decoded in full and compared in size, a prompt is drawn, and the files' own bytes go into Parquet with
Image features. The builder also hashes, audits, looks for displacement and lookalikes, and divides into splits: the
ratio says what that costs. The two take turns in one process on one thread.
"""

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.support.clock import in_turn, ratios
from benchmarks.support.command import options
from benchmarks.support.material import write_raw_pairs
from ip2p_lightning.curation.audit.examine import Part
from ip2p_lightning.curation.audit.policy import Audit
from ip2p_lightning.curation.build import build
from ip2p_lightning.curation.origins.folder_layout import FolderOrigin
from ip2p_lightning.curation.plan import BuildSettings
from ip2p_lightning.data.prompts import PromptPool


def plain(root: Path, out: Path) -> None:
    """What one would write without the builder."""
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(0)
        for path in sorted((root / "input").iterdir()):
            sides = [file.read_bytes() for file in (path, root / "target" / path.name)]
            before, after = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in sides)
            assert before.shape == after.shape
            prompt = ("derain the image", "remove the rain")[int(rng.integers(2))]
            images = [{"bytes": content, "path": path.name} for content in sides]
            yield {"original_image": images[0], "edit_prompt": prompt, "edited_image": images[1], "id": path.stem}

    image, text = datasets.Image(), datasets.Value("string")
    features = datasets.Features(original_image=image, edit_prompt=text, edited_image=image, id=text)
    table = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(out / "cache"))
    table.to_parquet(str(out / "train.parquet"))


def built(root: Path, out: Path) -> None:
    """The builder, with all its checks."""
    source = FolderOrigin(
        "bench", str(root), [{"any": {"original": "input/{name}", "edited": "target/{name}"}}], 0.1, 0.1
    )
    build(
        BuildSettings([Part("derain", source, PromptPool(["derain the image", "remove the rain"]), None)], Audit()), out
    )


def _afresh(work: Callable[[Path, Path], None], root: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        work(root, out)


def main() -> None:
    """Print one line of JSON."""
    asked = options(__doc__, pairs=200, size=256, rounds=7)
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "in", Path(folder) / "out"
        write_raw_pairs(root, asked.pairs, asked.size)
        sides = {side.__name__: partial(_afresh, side, root, out) for side in (plain, built)}
        in_turn(sides, 1)  # imports, caches
        times = in_turn(sides, asked.rounds)
    rates = {f"{name}, pairs per CPU s": round(asked.pairs / min(found), 1) for name, found in times.items()}
    print(json.dumps({"benchmark": "curation", **vars(asked), **rates, **ratios(*times.values())}))


if __name__ == "__main__":
    main()
