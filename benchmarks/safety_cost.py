"""What safety costs: training steps with and without the guard, the keyed randomness, the digests of checkpoints.

usage: python -m benchmarks.safety_cost [--steps N] [--words WORD ...]

One real ``ip2p-train`` fit in this process, one thread. Every step is either with the guard and the keyed randomness or
without (in the order A B B A, so that a drift of the machine cancels), in CPU seconds. "Without" is what a plain loop
does: gradients are clipped and never looked at; one generator for noise, one for data, one for order, none reseeded.
Then each part by itself, and a checkpoint saved with and without its sha256.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import ip2p_lightning  # noqa: F401
from ip2p_lightning.config import build
from ip2p_lightning.data import batch_sampler, dataset
from ip2p_lightning.rng import numpy_rng, seed_of, torch_rng
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.system.signals import StopRequest
from ip2p_lightning.training import fit, trainer
from ip2p_lightning.training.gradient_guard import Guard

WARM_UP = 4
SHARED = np.random.default_rng(0)


def config_of(words: list[str]) -> dict[str, Any]:
    """The checked config of ``ip2p-train WORDS``."""
    from hydra import compose, initialize_config_dir

    from ip2p_lightning.config.compose import CONF

    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return build.checked(compose("train", overrides=words))


@contextlib.contextmanager
def unsafe(module: Any, generator: torch.Generator) -> Iterator[None]:
    """Steps without the guard and with unkeyed randomness."""

    def clip(optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None) -> None:
        parameters = [p for p in module.parameters() if p.grad is not None]
        module.grad_norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)

    with contextlib.ExitStack() as stack:
        for place in (dataset, batch_sampler):
            stack.enter_context(mock.patch.object(place, "numpy_rng", lambda *key: SHARED))
        plain = {"configure_gradient_clipping": clip, "on_train_batch_start": lambda batch, batch_idx: None}
        plain["_keyed_draws"] = lambda batch: module.draws(batch, generator)
        for name, value in plain.items():
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def alternating(times: dict[bool, list[float]], kept: list[Any]) -> Any:
    """A callback that switches safety on and off, and takes the time from one step's end to the next."""
    from lightning.pytorch import Callback

    class Alternating(Callback):
        def __init__(self) -> None:
            self.step, self.began, self.off = 0, 0.0, contextlib.ExitStack()
            self.generator = torch.Generator().manual_seed(0)

        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            now = time.process_time()
            if self.step > WARM_UP:
                times[self._safe()].append(now - self.began)
            self.off.close()
            self.step += 1
            if not self._safe():
                self.off.enter_context(unsafe(module, self.generator))
            kept[:] = [trainer]
            self.began = time.process_time()

        def _safe(self) -> bool:
            return self.step % 4 in (0, 3)

    return Alternating()


def best(action: Callable[[], Any], count: int, rounds: int = 7) -> float:
    """CPU seconds of one call: the best of some rounds."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(count):
            action()
        found.append((time.process_time() - began) / count)
    return min(found)


def parts(data: Any, batch_size: int, windows: int) -> dict[str, float]:
    """CPU seconds a step of each part by itself."""
    norm, guard = torch.tensor(1.0), Guard()
    place = (0, "data", "derain", "train", 17, "photo.jpg", 0)
    pairs = data.datasets("train")
    order = batch_sampler.TrainPlan(pairs.sizes, data.weights, len(pairs), 0)
    keyed = best(lambda: order.order(7), 50)
    with mock.patch.object(batch_sampler, "numpy_rng", lambda *key: SHARED):
        keyed -= best(lambda: order.order(7), 50)
    return {
        "guard": best(lambda: guard.immediate(norm), 2000),
        "reseeding of the layers": windows * best(lambda: torch.manual_seed(seed_of(0, "layers", 0, 7)), 2000),
        "keys of the draws": windows * best(lambda: torch_rng(0, "train", 0, 7), 2000),
        "keys of the order": keyed * batch_size * windows / len(pairs),
        "keys of the examples": 2 * batch_size * windows * best(lambda: numpy_rng(*place, "image"), 2000),
    }


class _NoHash:
    def update(self, data: Any) -> None: ...

    def hexdigest(self) -> str:
        return "0" * 64


def saves(content: dict[str, Any], folder: Path, rounds: int = 9) -> dict[bool, list[float]]:
    """CPU seconds of saving a checkpoint with and without hashing it, in turn."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * rounds):
        safe = number % 4 in (0, 3)
        path = folder / "step-000001.ckpt"
        with contextlib.nullcontext() if safe else mock.patch.object(hashlib, "sha256", _NoHash):
            began = time.process_time()
            checkpoint.save(content, path)
            found[safe].append(time.process_time() - began)
    return found


def told(name: str, pair: dict[bool, list[float]], unit: float = 1e3) -> str:
    """A row of the table: minima, medians, ratios."""
    rows = []
    for of in (min, statistics.median):
        on, off = of(pair[True]), of(pair[False])
        rows.append(f"{off * unit:.2f} | {on * unit:.2f} | {100 * (on / off - 1):+.2f} %")
    return f"| {name} | {' | '.join(rows)} |"


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--words", nargs="*", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    words = ["model=tiny", "val_every=0", "save_every=100000", f"trainer.max_steps={args.steps}", *args.words]
    config, times, kept = config_of(words), {True: [], False: []}, []
    callbacks = trainer._callbacks
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / checkpoint.FOLDER).mkdir()
        data = build.build_data(config)
        data.setup("fit")
        with mock.patch.object(trainer, "_callbacks", lambda *a: [*callbacks(*a), alternating(times, kept)]):
            fit.fit(config, folder, data, None, StopRequest())
        content = kept[0]._checkpoint_connector.dump_checkpoint(weights_only=False)
        saved = saves(content, folder)
    step = statistics.median(times[False])
    windows = config["trainer"]["accumulate_grad_batches"]
    print("| | without, min ms | with | | without, median ms | with | |\n|---|---|---|---|---|---|---|")
    print(told(f"step ({len(times[True])} with, {len(times[False])} without)", times))
    print(told("one save", saved))
    cost = {n: s / step for n, s in parts(data, config["loader"]["batch_size"], windows).items()}
    hashed = min(saved[True]) - min(saved[False])
    cost["sha256 of a checkpoint, over save_every=200 steps"] = hashed / (200 * step)
    print("\n| part by itself | of a step |\n|---|---|")
    for part, share in [*cost.items(), ("together", sum(cost.values()))]:
        print(f"| {part} | {100 * share:.3f} % |")


if __name__ == "__main__":
    main()
