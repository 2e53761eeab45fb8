"""Edit the pairs of a split, with an instruction of the task and, among several tasks, a wrong one; score the edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from tqdm.auto import tqdm

from ip2p_lightning.data.example import EditExample
from ip2p_lightning.evaluation.metrics import psnr, ssim
from ip2p_lightning.evaluation.score_table import METHODS
from ip2p_lightning.rng import numpy_rng, seed_of


def wrong_pools(data: Any) -> dict[str, Any]:
    """For each task the prompt pool of the next one; {} for a single task, which has none to be confused with."""
    pools = {name: task.prompts for name, task in data.active.items()}
    names = list(pools)
    return {name: pools[names[(i + 1) % len(names)]] for i, name in enumerate(names)} if len(names) > 1 else {}


def score_batches(
    editor: Any, batches: Any, wrong: Mapping[str, Any], split: str, prompts: str, seed: int
) -> Iterator[Any]:
    """Yields each example with its rows per method and the images of the methods.

    Takes a `BatchEditor`, the batches of ``data.evaluation``, `wrong_pools`, and options of ``ip2p-evaluate``.
    """
    draws: Counter[tuple[str, str]] = Counter()
    for batch in _with_progress(batches, editor, 2 if wrong else 1):
        keys = _keys(batch, split, seed, draws)
        instructions = {"model": list(batch.prompt), "identity": [""] * len(keys)}
        if wrong:
            instructions["wrong_instruction"] = _wrong(batch, wrong, keys, prompts)
        edits = _edits(editor, batch.original, instructions, keys)
        images = {method: edits.get(method, batch.original) for method in METHODS if method in instructions}
        values = _values(editor, images, batch.edited)
        for i, name in enumerate(batch.id):
            example = EditExample(batch.original[i], batch.edited[i], batch.prompt[i], batch.task[i], name)
            rows = [
                {"draw": keys[i][-1], "method": m, "prompt": instructions[m][i], "psnr": p[i], "ssim": s[i]}
                for m, (p, s) in values.items()
            ]
            yield example, rows, {m: x[i] for m, x in images.items()}


def _values(editor: Any, images: Mapping[str, Any], truth: Any) -> dict[str, tuple[list[float], list[float]]]:
    """PSNR and SSIM of each method's images."""
    device, found = editor.module.device, {}
    with torch.no_grad(), editor.clock("score"):
        truth = truth.to(device)
        for method, x in images.items():
            found[method] = psnr(x.to(device), truth).tolist(), ssim(x.to(device), truth).tolist()
    return found


def _with_progress(batches: Any, editor: Any, edits: int) -> Iterator[Any]:
    """The batches, with a progress bar that moves with every step of the sampler."""
    form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total} batches [{elapsed}<{remaining}]"
    with tqdm(total=len(batches), desc="evaluate", bar_format=form, disable=None, leave=False) as bar:
        for batch in batches:
            total = edits * len(batch.id)  # the right and the wrong instruction
            editor.progress = lambda images, total=total: bar.update(images / total)
            yield batch


def _keys(batch: Any, split: str, seed: int, draws: Counter[tuple[str, str]]) -> list[tuple[Any, ...]]:
    """The random key of each example, independent of the batches."""
    keys = []
    for example in zip(batch.task, batch.id, strict=True):
        keys.append((seed, "evaluate", split, *example, draws[example]))
        draws[example] += 1
    return keys


def _edits(
    editor: Any, original: Any, instructions: Mapping[str, list[str]], keys: list[tuple[Any, ...]]
) -> dict[str, Any]:
    """The edits with the right and, if there is one, with the wrong instruction; images are encoded once."""
    module, seeds = editor.module, [seed_of(*key) for key in keys]
    with editor.clock("encode"):
        encoded = module.autoencoder.moments(original.to(module.device))
    return {
        method: editor.edit(encoded, words, seeds) for method, words in instructions.items() if method != "identity"
    }


def _wrong(batch: Any, pools: Mapping[str, Any], keys: list[tuple[Any, ...]], prompts: str) -> list[str]:
    drawn = ((pools[task], numpy_rng(*key, "wrong")) for task, key in zip(batch.task, keys, strict=True))
    return [pool.draw(rng, held_out=prompts == "heldout" and bool(pool.held_out)) for pool, rng in drawn]
