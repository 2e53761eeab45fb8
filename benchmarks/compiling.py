"""What ``torch.compile`` of the repeated blocks gains on a CPU, one thread: CPU seconds a step or edit, and the first.

``python -m benchmarks.compiling [--size small] [--edits] [--rounds 5]``: eager and ``model.compile=regional`` in turn;
``--size embedded`` is ``model=tiny``. With ``--edits`` it is ``ip2p-edit --compile``: a batch of 4 photos, 4 steps.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # every compilation is a first one

import torch

import ip2p_lightning  # noqa: F401  makes torchvision importable
from benchmarks.material import SIZES, write_editor
from benchmarks.safety_cost import config_of


def main() -> int:
    """Measure and print a line of a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=[*SIZES, "embedded"], default="small")
    parser.add_argument("--edits", action="store_true")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("/tmp/ip2p-bench"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    make = _edit if options.edits else _step
    runs = {how: make(options, how) for how in ("off", "regional")}
    first = {how: _cpu(run) for how, run in runs.items()}
    found: dict[str, list[float]] = {how: [] for how in runs}
    for _ in range(options.rounds):
        for how, run in runs.items():
            found[how].append(_cpu(run))
    for name, of in (("best", min), ("median", statistics.median)):
        eager, compiled = (of(found[how]) for how in ("off", "regional"))
        print(f"{name}: eager {eager:.3f}, compiled {compiled:.3f} CPU s: {eager / compiled:.2f} times as fast")
    print(f"the first: eager {first['off']:.1f}, compiled {first['regional']:.1f} CPU s")
    return 0


def _module(options: argparse.Namespace, how: str) -> Any:
    from ip2p_lightning.config import build

    path = write_editor(options.work / f"editor-{options.size}", options.size) if options.size in SIZES else None
    words = ["model=local", f"model.path={path}"] if path else ["model=tiny"]
    return build.build_module(config_of([*words, "task=denoise", f"model.compile={how}", "model.channels_last=true"]))


def _images(options: argparse.Namespace, count: int) -> torch.Tensor:
    return torch.rand(count, 3, options.pixels, options.pixels, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _step(options: argparse.Namespace, how: str) -> Callable[[], Any]:
    """A step over 4 pairs whose moments are there already, as a cache gives them."""
    from ip2p_lightning.data.example import EditExample
    from ip2p_lightning.rng import torch_rng

    module = _module(options, how)
    module.setup("fit")
    optimizer = torch.optim.AdamW(module.unet.parameters(), lr=1e-5, fused=True)
    moments = module.autoencoder.moments(_images(options, 4))
    batch = EditExample(moments, moments, ["remove the noise"] * 4, ["denoise"] * 4, list("abcd"))

    def step() -> None:
        module.loss(batch, module.draws(batch, torch_rng(0))).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _edit(options: argparse.Namespace, how: str) -> Callable[[], Any]:
    from ip2p_lightning.diffusion import DiffusionSampler
    from ip2p_lightning.editing.editor import BatchEditor, ready

    module = ready(_module(options, "off"), "cpu", compile=how != "off")
    editor = BatchEditor(module, DiffusionSampler("ddim", 4) if module.objective.start == "noise" else None)
    return lambda: editor.edit(_images(options, 4), ["remove the noise"] * 4, [0] * 4)


def _cpu(run: Callable[[], Any]) -> float:
    """CPU seconds of this process and of the compilers that it starts."""
    began = _children() + time.process_time()
    run()
    return _children() + time.process_time() - began


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
