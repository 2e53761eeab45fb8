"""Images a second of our training loader against the loader of diffusers' script: one core, the same Parquet files.

``python -m benchmarks.speed.loader train_instruct_pix2pix.py [--kind jpeg] [--stored 256] [--size 256]``

Both decode the two images of a pair, bring them to the training size, flip half of them and deliver batches in
[-1, 1]; a caption is chosen, not tokenised. The peer's functions are taken out of its unmodified script and run as they
stand there. Both sides work in one process without workers, in turn; CPU seconds. Before that, the pairs without flips
are compared pixel by pixel where both are asked for the same pixels: at the size that is stored.
"""

import ast
import json
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.speed.editing import as_glibc_does
from benchmarks.speed.training.peer import COLUMNS
from benchmarks.support.clock import in_turn, ratios
from benchmarks.support.command import options
from benchmarks.support.material import write_pairs
from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.datamodules import EditDataModule
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.data.sources.built import Built
from ip2p_lightning.data.sources.hub import HubDataset
from ip2p_lightning.system.allocator import keep_pages

Batches = Callable[[], Iterator[Any]]
TAKEN = ["convert_to_np", "train_transforms", "preprocess_images", "preprocess_train", "collate_fn"]


def main() -> None:
    """Print one line of JSON."""
    numbers = {"pairs": 128, "stored": 256, "size": 256, "batch": 8, "rounds": 7}
    asked = options(__doc__, peer=Path, kind=("jpeg", "png"), **numbers)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, cache = write_pairs(Path(folder) / "pairs", asked.pairs, asked.stored, asked.kind), Path(folder) / "cache"
        difference = largest_difference(root, cache, asked)
        sides = {name: partial(_epoch, name, make(root, cache, asked, True)) for name, make in SIDES.items()}
        in_turn(sides, 1)  # opens files and fills caches
        times = in_turn(sides, asked.rounds)
    told = {"benchmark": "loader", **vars(asked), "largest difference": difference}
    told |= {f"{name}, images/s": round(2 * asked.pairs / min(seconds)) for name, seconds in times.items()}
    for name in ("built", "hub"):
        told |= {f"{name}: {how}": ratio for how, ratio in ratios(times["peer"], times[name]).items()}
    print(json.dumps(told, default=str))


def _epoch(name: str, batches: Batches) -> None:
    as_glibc_does() if name == "peer" else keep_pages()  # malloc as either side's command has it
    for _ in batches():
        pass


def peer(root: Path, cache: Path, asked: Namespace, augment: bool) -> Batches:
    """The script's own loader over the dataset as it loads it."""
    import datasets
    from torchvision import transforms

    args = SimpleNamespace(resolution=asked.size, center_crop=not augment, random_flip=augment)
    scope: dict[str, Any] = {"np": np, "torch": torch, "transforms": transforms, "args": args, **COLUMNS}
    scope["tokenize_captions"] = lambda captions: torch.zeros(len(captions), 77, dtype=torch.long)
    exec(compile(_taken(asked.peer, TAKEN), str(asked.peer), "exec"), scope)
    train = datasets.load_dataset(str(root), None, cache_dir=str(cache))["train"]
    train = train.with_transform(scope["preprocess_train"])
    how = {"collate_fn": scope["collate_fn"], "batch_size": asked.batch, "num_workers": 0}
    loader = torch.utils.data.DataLoader(train, shuffle=augment, **how)
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


def built(root: Path, cache: Path, asked: Namespace, augment: bool) -> Batches:
    """Ours, ``data=built``."""
    return _ours(Built(str(root)), asked, augment)


def hub(root: Path, cache: Path, asked: Namespace, augment: bool) -> Batches:
    """Ours, ``data=hub``: the same files by way of `datasets`."""
    names = {"original": "original_image", "edited": "edited_image", "prompt": "edit_prompt"}
    return _ours(HubDataset(str(root / "data"), **names, val=0, test=0), asked, augment)


def _ours(source: Any, asked: Namespace, augment: bool) -> Batches:
    resize = (asked.size, asked.size) if asked.size != asked.stored else None
    loader = Loader(batch_size=asked.batch, size=asked.size, resize=resize, crop="random" if augment else "center")
    data = EditDataModule(source, PromptPool(["do it"]), flip=0.5 if augment else 0.0, loader=loader)
    batches = data.train_dataloader()
    return lambda: iter(batches)


SIDES = {"peer": peer, "built": built, "hub": hub}


def largest_difference(root: Path, cache: Path, asked: Namespace) -> float | None:
    """Between the same pairs on both sides, without augmentation; None where they are not asked for the same pixels."""
    if asked.size != asked.stored:
        return None
    columns = ("original_pixel_values", "edited_pixel_values")
    theirs = [x for b in peer(root, cache, asked, False)() for x in zip(*(b[name] for name in columns), strict=True)]
    worst = 0.0
    for side in (built, hub):
        names, ours = [], []
        for batch in side(root, cache, asked, False)():
            names += batch.id
            ours += zip(batch.original, batch.edited, strict=True)
        order = sorted(range(len(names)), key=lambda i: names[i] if side is built else int(names[i].split("/")[1]))
        for mine, other in zip([ours[i] for i in order], theirs, strict=True):
            worst = max(worst, *(float((a - b).abs().max()) for a, b in zip(mine, other, strict=True)))
    return worst


if __name__ == "__main__":
    main()
