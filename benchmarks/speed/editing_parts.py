"""What each measure of ``ip2p-edit`` gains on a CPU: one evaluation of the UNet a photo, three branches, one thread.

``python -m benchmarks.speed.editing_parts [--size small] [--rounds 5] [--latents 16 24 32]``: CPU seconds a photo, each
line one measure more than the one above (the rules of ``networks/lean.py`` by name); all lines in turn, the best of the
rounds.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from benchmarks.speed.editing import as_glibc_does
from benchmarks.support.clock import cpu_seconds
from benchmarks.support.command import WORK, options
from benchmarks.support.material import SIZES, write_editor
from ip2p_lightning.networks.fast_sampling import RULES, leaner
from ip2p_lightning.networks.unet import load_unet
from ip2p_lightning.system.allocator import keep_pages

PHOTOS = 4  # at once


@torch.no_grad()
def main() -> None:
    """Measure and print a table."""
    asked = options(__doc__, size=tuple(SIZES), rounds=5, latents=[16, 24, 32], work=WORK)
    torch.set_num_threads(1)
    path = str(write_editor(asked.work, asked.size))
    for side in asked.latents:
        lines = _lines(path, side)
        found = [{name: run() for name, run in lines.items()} for _ in range(asked.rounds)]
        best = {name: min(measured[name] for measured in found) for name in lines}
        first = next(iter(best.values()))
        for name, seconds in best.items():
            print(f"| {8 * side} px | {name} | {seconds:.3f} | {first / seconds:.2f} |", flush=True)


def _lines(path: str, side: int) -> dict[str, Callable[[], float]]:
    plain = load_unet(path)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    one, several = _inputs(plain, side, 1), _inputs(plain, side, PHOTOS)
    lines = {
        "one photo, as diffusers' pipeline": partial(_run, plain, one, as_glibc_does),
        f"{PHOTOS} photos at once": partial(_run, plain, several, as_glibc_does),
        "pages kept": partial(_run, plain, several, keep_pages),
        "channels last": partial(_run, last, several, keep_pages),
    }
    for count, rule in enumerate(RULES, start=1):
        lines[f"`{rule.__name__}`"] = partial(_run, last, several, keep_pages, RULES[:count])
    return lines


def _inputs(unet: Any, side: int, photos: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three branches of each photo, as guidance stacks them: two are shown its image, all have the same noise."""
    text = torch.randn(3 * photos, 77, unet.config.cross_attention_dim)
    z, image = torch.randn(2, photos, unet.config.in_channels // 2, side, side)
    return torch.cat([z.repeat(3, 1, 1, 1), torch.cat([image, image, 0 * image])], dim=1), text


def _run(unet: Any, inputs: tuple[torch.Tensor, torch.Tensor], prepare: Callable[[], None], rules: Any = ()) -> float:
    """CPU seconds a photo; the first of two calls pages in what the thresholds before had given back."""
    prepare()
    x, text = inputs
    call = partial(unet, x, torch.full((len(x),), 500), encoder_hidden_states=text, return_dict=False)
    with leaner(unet, rules=rules) if rules else nullcontext():
        return [cpu_seconds(call) for _ in range(2)][-1] / (len(x) // 3)


if __name__ == "__main__":
    main()
