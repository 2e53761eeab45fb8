"""What ``torch.compile`` of the repeated blocks gains on a CPU, one thread: CPU seconds a step or edit, and the first.

``python -m benchmarks.speed.training.compiled [--size small] [--edits] [--rounds 5]``: eager and
``model.compile=regional`` in turn; ``--size embedded`` is ``model=tiny``. With ``--edits`` it is ``ip2p-edit
--compile``: a batch of 4 photos, 4 steps.
"""

import os
import statistics
from argparse import Namespace
from collections.abc import Callable
from typing import Any

os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # every compilation is a first one

import torch

from benchmarks.support.clock import in_turn
from benchmarks.support.command import WORK, config_of, options
from benchmarks.support.material import SIZES, write_editor
from ip2p_lightning.config import build
from ip2p_lightning.diffusion.samplers import DiffusionSampler
from ip2p_lightning.editing.editor import BatchEditor, ready


def main() -> None:
    """Measure and print."""
    asked = options(__doc__, size=(*SIZES, "embedded"), edits=False, pixels=128, rounds=5, work=WORK)
    torch.set_num_threads(1)
    runs = {how: (_edit if asked.edits else _step)(asked, how) for how in ("off", "regional")}
    first, found = in_turn(runs, 1), in_turn(runs, asked.rounds)
    for name, of in (("best", min), ("median", statistics.median)):
        eager, compiled = (of(found[how]) for how in runs)
        print(f"{name}: eager {eager:.3f}, compiled {compiled:.3f} CPU s: {eager / compiled:.2f} times as fast")
    print(f"the first: eager {first['off'][0]:.1f}, compiled {first['regional'][0]:.1f} CPU s")


def _words(asked: Namespace, how: str) -> list[str]:
    local = ["model=local", f"model.path={write_editor(asked.work, asked.size)}"] if asked.size in SIZES else []
    return [*(local or ["model=tiny"]), f"model.compile={how}", "model.channels_last=true"]


def _step(asked: Namespace, how: str) -> Callable[[], Any]:
    """A step over 4 pairs whose moments are there already, as a cache gives them; the first fills it."""
    from benchmarks.speed.training.step import Run, on_pairs

    cached = ["cache=disk", f"cache_dir={asked.work / 'cache-compiled'}"] if asked.size in SIZES else []
    return Run([*_words(asked, how), *on_pairs(asked.work, asked.pixels, 4, 1), *cached]).step


def _edit(asked: Namespace, how: str) -> Callable[[], Any]:
    x = torch.rand(4, 3, asked.pixels, asked.pixels, generator=torch.Generator().manual_seed(0)) * 2 - 1
    module = build.build_module(config_of([*_words(asked, "off"), "task=denoise"]))
    module = ready(module, "cpu", compile=how != "off")
    editor = BatchEditor(module, DiffusionSampler("ddim", 4) if module.objective.start == "noise" else None)
    return lambda: editor.edit(x, ["remove the noise"] * 4, [0] * 4)


if __name__ == "__main__":
    main()
