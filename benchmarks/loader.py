"""Images a second of our training loader against the loader of diffusers' script: one core, the same Parquet files.

Both decode the two images of a pair, bring them to the training size, flip half of them and deliver batches in
[-1, 1]; a caption is chosen, not tokenised. The peer's functions are taken out of its unmodified script: its
`convert_to_np`, `preprocess_train` and `collate_fn` run as they stand there, in the `DataLoader` it makes. Both sides
work in one process without workers, in turn; CPU seconds, minima and medians. Before that, one batch without flips is
compared pixel by pixel where both are asked for the same pixels: at the size that is stored.

    OMP_NUM_THREADS=1 python -m benchmarks.loader train_instruct_pix2pix.py [--kind jpeg] [--stored 256] [--size 256]
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import ip2p_lightning  # noqa: F401  makes torchvision importable, for the peer too
from benchmarks.edit_speed import as_glibc_does
from ip2p_lightning.system.allocator import keep_pages

COLUMNS = {
    "original_image_column": "original_image",
    "edited_image_column": "edited_image",
    "edit_prompt_column": "edit_prompt",
}


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", type=Path, help="diffusers' examples/instruct_pix2pix/train_instruct_pix2pix.py")
    parser.add_argument("--kind", choices=["jpeg", "png"], default="jpeg", help="what is stored")
    for name, default in (("pairs", 128), ("stored", 256), ("size", 256), ("batch", 8), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = dataset(Path(folder), options)
        difference = largest_difference(root, Path(folder) / "cache", options)
        sides = {name: make(root, Path(folder) / "cache", options, True) for name, make in SIDES.items()}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds + 1):
            for name, batches in sides.items():
                as_glibc_does() if name == "peer" else keep_pages()  # malloc as either side's command has it
                times[name].append(cpu_seconds(batches))
    told = {"benchmark": "loader", **{k: v for k, v in vars(options).items() if k != "peer"}}
    print(json.dumps(told | {"largest difference": difference} | _figures(times, 2 * options.pairs)))


def _figures(times: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Without the first round, which opens files and fills caches."""
    kept = {name: seconds[1:] for name, seconds in times.items()}
    found: dict[str, Any] = {f"{name}, images/s": round(images / min(seconds)) for name, seconds in kept.items()}
    for name in list(kept)[1:]:
        pairs = list(zip(kept["peer"], kept[name], strict=True))
        found[f"{name}: ratio of minima"] = round(min(kept["peer"]) / min(kept[name]), 2)
        found[f"{name}: median ratio"] = round(statistics.median(a / b for a, b in pairs), 2)
    return found


def cpu_seconds(batches: Callable[[], Iterator[Any]]) -> float:
    """One epoch."""
    began = time.process_time()
    for _ in batches():
        pass
    return time.process_time() - began


def dataset(folder: Path, options: argparse.Namespace) -> Path:
    """Crops of photographs and their noisy copies, built by our builder: the files' own bytes are in it."""
    import skimage.data
    from PIL import Image

    from ip2p_lightning.cli.data import main as build

    photos = [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    rng, side = np.random.default_rng(0), options.stored
    how = {"quality": 95} if options.kind == "jpeg" else {"compress_level": 6}
    for i in range(options.pairs):
        photo = Image.fromarray(photos[i % 4])
        wide = photo.resize([max(side, round(n * 1.3 * side / min(photo.size))) for n in photo.size])
        left, top = (int(rng.integers(0, n - side + 1)) for n in wide.size)
        clean = wide.crop((left, top, left + side, top + side))
        noisy = np.clip(np.asarray(clean) + rng.normal(0, 12, (side, side, 3)), 0, 255).astype(np.uint8)
        for name, image in (("input", Image.fromarray(noisy)), ("target", clean)):
            path = folder / "in" / "train" / name / f"{i:05d}.{options.kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, **how)
    words = [f"source.root={folder / 'in'}", f"out={folder / 'out'}", "source.val=0", "source.test=0"]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        code = build(["build", "task=denoise", "source=folder", "audit.lookalikes=false", *words])
    assert code == 0
    return folder / "out"


# ---- the two sides ----


def peer(root: Path, cache: Path, options: argparse.Namespace, augment: bool) -> Callable[[], Iterator[Any]]:
    """The script's own loader over the dataset as it loads it."""
    import datasets
    from torchvision import transforms

    args = SimpleNamespace(resolution=options.size, center_crop=not augment, random_flip=augment)
    scope: dict[str, Any] = {"np": np, "torch": torch, "transforms": transforms, "args": args, **COLUMNS}
    scope["tokenize_captions"] = lambda captions: torch.zeros(len(captions), 77, dtype=torch.long)
    wanted = ["convert_to_np", "train_transforms", "preprocess_images", "preprocess_train", "collate_fn"]
    exec(compile(_taken(options.peer, wanted), str(options.peer), "exec"), scope)
    train = datasets.load_dataset(str(root), None, cache_dir=str(cache))["train"]
    train = train.with_transform(scope["preprocess_train"])
    loader = torch.utils.data.DataLoader(
        train, shuffle=augment, collate_fn=scope["collate_fn"], batch_size=options.batch, num_workers=0
    )
    return lambda: iter(loader)


def _taken(script: Path, names: list[str]) -> ast.Module:
    """The statements of a script, at whatever depth, that define these names."""
    found = {}
    for node in ast.walk(ast.parse(script.read_text())):
        name = node.name if isinstance(node, ast.FunctionDef) else None
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        if name in names:
            found[name] = node
    return ast.Module([found[name] for name in names], type_ignores=[])


def built(root: Path, cache: Path, options: argparse.Namespace, augment: bool) -> Callable[[], Iterator[Any]]:
    """Ours, ``data=built``."""
    from ip2p_lightning.data import Built

    return _ours(Built(str(root)), options, augment)


def hub(root: Path, cache: Path, options: argparse.Namespace, augment: bool) -> Callable[[], Iterator[Any]]:
    """Ours, ``data=hub``: the same files by way of `datasets`."""
    from ip2p_lightning.data import HubDataset

    names = {"original": "original_image", "edited": "edited_image", "prompt": "edit_prompt"}
    return _ours(HubDataset(str(root / "data"), **names, val=0, test=0), options, augment)


def _ours(source: Any, options: argparse.Namespace, augment: bool) -> Callable[[], Iterator[Any]]:
    from ip2p_lightning.data import EditDataModule, Loader, PromptPool

    resize = (options.size, options.size) if options.size != options.stored else None
    loader = Loader(batch_size=options.batch, size=options.size, resize=resize, crop="random" if augment else "center")
    data = EditDataModule(source, PromptPool(["do it"]), flip=0.5 if augment else 0.0, loader=loader)
    batches = data.train_dataloader()
    return lambda: iter(batches)


SIDES = {"peer": peer, "built": built, "hub": hub}


def largest_difference(root: Path, cache: Path, options: argparse.Namespace) -> float | None:
    """Between the same pairs on both sides, without augmentation; None where they are not asked for the same pixels."""
    if options.size != options.stored:
        return None
    theirs = [x for b in peer(root, cache, options, False)() for x in zip(*_images(b), strict=True)]
    worst = 0.0
    for side in (built, hub):
        names, ours = [], []
        for batch in side(root, cache, options, False)():
            names += batch.id
            ours += zip(batch.original, batch.edited, strict=True)
        order = sorted(range(len(names)), key=lambda i: names[i] if side is built else int(names[i].split("/")[1]))
        for mine, other in zip([ours[i] for i in order], theirs, strict=True):
            worst = max(worst, *(float((a - b).abs().max()) for a, b in zip(mine, other, strict=True)))
    return worst


def _images(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return batch["original_pixel_values"], batch["edited_pixel_values"]


if __name__ == "__main__":
    main()
