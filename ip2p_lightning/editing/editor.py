"""Edit many images with one model, in batches as large as is fast and fits in memory.

The pixels are those of one image at a time up to float noise: less than 1e-4 in [-1, 1], so that an 8-bit file differs
by at most 1. With ``at_once=1`` they are the same to the last bit, whatever else is edited.

Shapes: N images of one size, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ip2p_lightning.editing.timer import Clock
from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.memory_format import to_channels_last
from ip2p_lightning.system.allocator import keep_pages

CPU_PIXELS, CPU_MOST = 2**18, 8  # measured (benchmarks/results/edit_cpu_202611.md): larger batches are no faster
GPU_PIXELS, GPU_MOST = 2**16, 32  # pixels per GiB of memory: a guess, not measured; halved where it does not fit


class BatchEditor:
    """Edits any number of images of one size a call.

    Args:
        module: an `EditDiffusion`, prepared by `ready`.
        sampler: None = the model's own.
        at_once: images a batch; None = by their size, see `images_at_once`. A batch that does not fit into memory is
            halved, and later ones are no larger.
        clock: measures the time of each part.
        progress: called with the number of images done since its last call, fractions included.
    """

    def __init__(
        self,
        module: Any,
        sampler: Any = None,
        at_once: int | None = None,
        clock: Clock | None = None,
        progress: Callable[[float], Any] = lambda images: None,
    ) -> None:
        self.module, self.sampler = module, sampler or module.sampler
        self.at_once, self.clock, self.progress = at_once, clock or Clock(), progress

    def edit(self, original: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """`EditDiffusion.edit` of any number of images on any device; [N 3 H W] in [-1, 1], on the CPU.

        Raises RuntimeError: not enough memory for one image.
        """
        edits: list[Tensor] = []
        while (begin := sum(map(len, edits))) < len(original):
            count = min(self._most(original), len(original) - begin)
            part = slice(begin, begin + count)
            try:
                edits.append(self._edit(original[part], prompts[part], seeds[part]))
            except RuntimeError as error:
                if count == 1 or not out_of_memory(error):
                    raise
                self.at_once = count // 2
        return torch.cat(edits)

    def _most(self, original: Tensor) -> int:
        if self.at_once is not None:
            return self.at_once
        factor = 1 if original.shape[1] == 3 else self.module.autoencoder.factor
        return images_at_once(self.module.device, original.shape[-2] * original.shape[-1] * factor**2)

    def _edit(self, original: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        reported = 0.0

        def progress(done: int, steps: int) -> None:
            nonlocal reported
            self.progress(len(original) / steps)
            reported += len(original) / steps

        try:
            x = original.to(self.module.device)
            edits = self.module.edit(x, prompts, seeds, self.sampler, self.clock, progress).cpu()
            self.clock.images += len(edits)
            return edits
        except RuntimeError:
            self.progress(-reported)
            raise


def images_at_once(device: torch.device, pixels: int) -> int:
    """Images of `pixels` pixels in a batch; depends only on the machine, so that results are reproducible."""
    if device.type != "cuda":
        return max(1, min(CPU_MOST, CPU_PIXELS // pixels))
    gibibytes = torch.cuda.get_device_properties(device).total_memory / 2**30
    return max(1, min(GPU_MOST, int(GPU_PIXELS * gibibytes) // pixels))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory: an exception class of its own on a GPU, only a message on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def ready(module: Any, device: str | None = None, dtype: str = "float32", compile: bool = False) -> Any:
    """Move a model to its device, precision and memory layout for editing; returns it.

    Args:
        device: as torch names it; None = the GPU if there is one.
        dtype: float32, bfloat16 or float16: of the networks; samplers stay in float32.
        compile: torch.compile of the unet's repeated blocks, for any size of image.

    Raises UserError: no such device, or a dtype that it does not support.
    """
    place = _device(device)
    if place.type == "cpu" and dtype == "float16":
        raise UserError("--dtype float16 needs a GPU; on a CPU give float32 or bfloat16")
    module.to(place).setup("predict")
    if dtype != "float32":
        for part in (module.unet, module.autoencoder, module.text_encoder):
            part.to(dtype=getattr(torch, dtype))
    if place.type == "cpu":
        keep_pages()
        for part in filter(None, (module.unet, module.autoencoder.model)):
            to_channels_last(part)
    module.compiled = "off"  # a run's own compilation is for training; it would keep this one from the edits
    if compile:
        unet = module.unet  # compiling the repeated blocks alone saves minutes
        (unet.compile_repeated_blocks if getattr(unet, "_repeated_blocks", None) else unet.compile)(dynamic=True)
    return module.eval()


def _device(name: str | None) -> torch.device:
    try:
        place = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return place
