"""``make bench``: the recorded ratios, measured again in a few minutes; a loss of more than a tenth is a failure.

Ratios of CPU seconds, both sides in turn in one process, the best of each: the machine and its neighbours cancel.
``--record`` writes what is measured to ``benchmarks/recorded.json``, ``--record NAME ...`` of these benchmarks alone;
nothing else writes there. Exit codes: 0 held or recorded, 1 a ratio was lost, 2 the record is not of these benchmarks.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.material import write_checkpoint
from ip2p_lightning.data.latent_cache.examples import Codec
from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.networks.autoencoder import KLAutoencoder
from ip2p_lightning.networks.unet import load_unet
from ip2p_lightning.training.ema import Average

RECORD = Path(__file__).with_name("recorded.json")
LOSS, ROUNDS, RETRIES = 0.10, 5, 2


def main() -> int:
    """Measure, then compare and print a table, or record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", nargs="*", choices=BENCHMARKS, metavar="NAME", help="default: all of them")
    asked = parser.parse_args(sys.argv[1:]).record
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if asked is not None:
        return _record(recorded, asked or list(BENCHMARKS))
    if refused := _mismatch(recorded):
        print(f"error: {refused}", file=sys.stderr)
        return 2
    return _compare(_measured(BENCHMARKS, recorded), recorded)


def _mismatch(recorded: dict[str, float]) -> str:
    """What is wrong with a record that is not one of these benchmarks, "" where it is."""
    unknown, missing = recorded.keys() - BENCHMARKS.keys(), [name for name in BENCHMARKS if name not in recorded]
    if unknown:
        return f"{RECORD} holds {sorted(unknown)[0]!r}, which is no benchmark; take it out, or put the benchmark back"
    command = shlex.join(["python", "-m", "benchmarks.run", "--record", *missing])
    return f"{RECORD} lacks {missing[0]!r}; on a quiet machine: {command}" if missing else ""


def _record(recorded: dict[str, float], names: Iterable[str]) -> int:
    found = {name: round(ratio, 3) for name, ratio in _measured(names, {}).items()}
    whole = {name: ratio for name, ratio in (recorded | found).items() if name in BENCHMARKS}
    RECORD.write_text(json.dumps({name: whole[name] for name in BENCHMARKS if name in whole}, indent=2) + "\n")
    for name, ratio in found.items():
        print(f"{name:50} {ratio:6.2f}  recorded")
    return 0


def _compare(found: dict[str, float], recorded: dict[str, float]) -> int:
    lost = [name for name, ratio in found.items() if not _holds(ratio, recorded[name])]
    for name, ratio in found.items():
        print(f"{name:50} {ratio:6.2f}  recorded {recorded[name]:6.2f}  {'LOST' if name in lost else 'ok'}")
    return 1 if lost else 0


def _measured(names: Iterable[str], recorded: dict[str, float]) -> dict[str, float]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        material = _Material(Path(folder))
        return {name: _measure(BENCHMARKS[name](material), recorded.get(name)) for name in names}


def _holds(ratio: float, recorded: float | None) -> bool:
    """Whether no more than a tenth of what was recorded is lost."""
    return recorded is None or ratio >= (1 - LOSS) * recorded


Pair = tuple[Callable[[], Any], Callable[[], Any]]  # what it was, what it is


def _measure(pair: Pair, recorded: float | None) -> float:
    """CPU time of the first over that of the second, each the best of some; asked again before it counts as lost."""
    best = [1e9, 1e9]
    for attempt in range(1 + RETRIES):
        for _ in range(ROUNDS):
            for side, action in enumerate(pair):
                began = time.process_time()
                action()
                best[side] = min(best[side], time.process_time() - began)
        if attempt == 1 if recorded is None else _holds(best[0] / best[1], recorded):
            break
    return best[0] / best[1]


class _Material:
    """A small checkpoint, batches of it, and the parts that are compared."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = write_checkpoint(folder / "tiny", "tiny")
        path = str(self.checkpoint)
        self.autoencoder, self.unet = KLAutoencoder(path), load_unet(path)
        self.folder, self.images = folder, torch.rand(8, 3, 128, 128) * 2 - 1
        self.latents, self.text = torch.randn(8, 8, 16, 16), torch.randn(8, 77, 64)

    def train(self, cached: bool) -> None:
        """Forward and backward over 8 examples at 2 x 4, encoding both images first unless they are cached."""
        for latents, text in zip(self.latents.split(2), self.text.split(2), strict=True):
            for _ in range(0 if cached else 2):
                self.autoencoder.moments(self.images[:2])
            prediction = self.unet(latents, torch.zeros(2), encoder_hidden_states=text, return_dict=False)[0]
            prediction.square().mean().backward()
        self.unet.zero_grad(set_to_none=True)


def _cached(m: _Material) -> Pair:
    return lambda: m.train(cached=False), lambda: m.train(cached=True)


def _run(m: _Material, batch: int) -> Pair:
    """A run's own optimizer steps, from the loader to the weights."""
    from benchmarks.speed.training import step

    plain, ours = step.both(m.folder, m.checkpoint, batch)
    return plain.step, ours.step


def _read(m: _Material) -> Pair:
    """A pair encoded, and the same pair from the cache."""
    codec = Codec(4, 16, False)
    space = Space(m.folder / "cache", {}, codec.payload)
    space.create()
    moments = m.autoencoder.moments(m.images[:2])
    space.put([(bytes(32), codec.pack(*moments))])

    def read() -> None:
        for _ in range(100):
            codec.unpack(space.get(bytes(32)) or b"")

    return lambda: m.autoencoder.moments(m.images[:2]), read


def _averaged(m: _Material) -> Pair:
    from diffusers.training_utils import EMAModel

    weights = list(m.unet.parameters())
    theirs, ours = EMAModel(weights), Average(weights)
    return lambda: [theirs.step(weights) for _ in range(5)], lambda: [ours.step(weights) for _ in range(5)]


def _edited(m: _Material) -> Pair:
    """Photos of one size, from files to files: the stock pipeline one by one, and ours at once."""
    from benchmarks.speed import editing

    asked = Namespace(size="tiny", steps=4, image_scale=1.5, batch_size=0, work=m.folder)
    ours = editing.Ours(asked, editing.write_photos(m.folder / "photos", False, 48))
    theirs = editing.Stock(asked)
    return lambda: theirs.edit(ours.batches[0]), lambda: ours.edit(ours.batches[0])


BENCHMARKS: dict[str, Callable[[_Material], Pair]] = {
    "step without and with cached moments": _cached,
    "encode a pair, read it 100 times": _read,
    "whole step at 2 x 4: plain; cache, fused AdamW": partial(_run, batch=2),
    "whole step at 8 x 1: plain; cache, fused AdamW": partial(_run, batch=8),
    "average: diffusers' loop and lerp": _averaged,
    "edit: diffusers' pipeline in a loop, batches": _edited,  # last: it changes what malloc keeps
}

if __name__ == "__main__":
    sys.exit(main())
