"""What safety costs: training steps with and without the guard, the keyed randomness, the digests of checkpoints.

``python -m benchmarks.speed.training.safety [--steps N]``: a real fit on one thread. Every step is with the guard and
the keyed randomness or without (A B B A, so that a drift of the machine cancels), in CPU seconds. "Without" is what a
plain loop does: gradients are clipped and never looked at; generators for noise, data and order, none reseeded. Then
each part by itself, and a checkpoint saved with and without its sha256.
"""

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

from benchmarks.support.clock import cpu_seconds
from benchmarks.support.command import config_of, options
from ip2p_lightning.config import build
from ip2p_lightning.data import batch_sampler, dataset
from ip2p_lightning.rng import numpy_rng, seed_of, torch_rng
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.system.signals import StopRequest
from ip2p_lightning.training import fit, trainer
from ip2p_lightning.training.gradient_guard import Guard

WARM_UP = 4
SHARED = np.random.default_rng(0)
Times = dict[bool, list[float]]  # with safety and without


@contextlib.contextmanager
def unsafe(module: Any, generator: torch.Generator) -> Iterator[None]:
    """Steps without the guard and with unkeyed randomness."""

    def clip(optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None) -> None:
        parameters = [p for p in module.parameters() if p.grad is not None]
        module.grad_norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)

    plain = {"configure_gradient_clipping": clip, "on_train_batch_start": lambda batch, batch_idx: None}
    plain["_keyed_draws"] = lambda batch: module.draws(batch, generator)
    with contextlib.ExitStack() as stack:
        for place in (dataset, batch_sampler):
            stack.enter_context(mock.patch.object(place, "numpy_rng", lambda *key: SHARED))
        for name, value in plain.items():
            stack.enter_context(mock.patch.object(module, name, value))
        yield


class Alternating:
    """Switches safety on and off, and takes the time from one step's end to the next."""

    def __init__(self) -> None:
        self.times: Times = {True: [], False: []}
        self.step, self.began, self.off, self.trainer = 0, 0.0, contextlib.ExitStack(), None
        self.generator = torch.Generator().manual_seed(0)

    def end(self, trainer: Any, module: Any, *args: Any) -> None:
        """Note the step that ends, and prepare the one that begins."""
        now = time.process_time()
        if self.step > WARM_UP:
            self.times[_safe(self.step)].append(now - self.began)
        self.off.close()
        self.step, self.trainer = self.step + 1, trainer
        if not _safe(self.step):
            self.off.enter_context(unsafe(module, self.generator))
        self.began = time.process_time()


def _safe(number: int) -> bool:
    return number % 4 in (0, 3)


def best(action: Callable[[], Any], count: int, rounds: int = 7) -> float:
    """CPU seconds of one call: the best of some rounds."""
    return min(cpu_seconds(lambda: [action() for _ in range(count)]) for _ in range(rounds)) / count


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


def saves(content: dict[str, Any], folder: Path, rounds: int = 9) -> Times:
    """CPU seconds of saving a checkpoint with and without hashing it, in turn."""
    found: Times = {True: [], False: []}
    for number in range(2 * rounds):
        with contextlib.nullcontext() if _safe(number) else mock.patch.object(hashlib, "sha256", _NoHash):
            found[_safe(number)].append(cpu_seconds(lambda: checkpoint.save(content, folder / "step-000001.ckpt")))
    return found


def row(name: str, pair: Times) -> str:
    """Of the table: minima, medians, ratios."""
    cells = []
    for of in (min, statistics.median):
        on, off = of(pair[True]), of(pair[False])
        cells.append(f"{off * 1e3:.2f} | {on * 1e3:.2f} | {100 * (on / off - 1):+.2f} %")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, print a table."""
    from lightning.pytorch.callbacks import LambdaCallback

    steps = options(__doc__, steps=200).steps
    torch.set_num_threads(1)
    config = config_of(["model=tiny", "val_every=0", "save_every=100000", f"trainer.max_steps={steps}"])
    alternating, callbacks = Alternating(), trainer._callbacks
    data = build.build_data(config)
    data.setup("fit")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / checkpoint.FOLDER).mkdir()
        more = LambdaCallback(on_train_batch_end=alternating.end)
        with mock.patch.object(trainer, "_callbacks", lambda *a: [*callbacks(*a), more]):
            fit.fit(config, folder, data, None, StopRequest())
        saved = saves(alternating.trainer._checkpoint_connector.dump_checkpoint(weights_only=False), folder)
    times = alternating.times
    step = statistics.median(times[False])
    print("| | without, min ms | with | | without, median ms | with | |\n|---|---|---|---|---|---|---|")
    print(row(f"step ({len(times[True])} with, {len(times[False])} without)", times))
    print(row("one save", saved))
    spent = parts(data, config["loader"]["batch_size"], config["trainer"]["accumulate_grad_batches"])
    spent["sha256 of a checkpoint, over save_every=200 steps"] = (min(saved[True]) - min(saved[False])) / 200
    print("\n| part by itself | of a step |\n|---|---|")
    for part, seconds in [*spent.items(), ("together", sum(spent.values()))]:
        print(f"| {part} | {100 * seconds / step:.3f} % |")


if __name__ == "__main__":
    main()
