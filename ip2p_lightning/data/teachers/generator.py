"""Teachers that are neural generators: photo in, stylised photo out, at any size, one by one or many at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ip2p_lightning.data.image import Image
from ip2p_lightning.data.teachers.resize import enlarge, pad, reduce
from ip2p_lightning.data.teachers.whitebox import WHERE, WhiteboxGenerator
from ip2p_lightning.errors import DamagedError, UserError, suggest
from ip2p_lightning.system.files import sha256_of, storage_errors


@dataclass(frozen=True)
class Architecture:
    """What a teacher has to know of a generator. Another (CartoonGAN, AnimeGAN) is a line in `ARCHITECTURES`.

    build: from the tensors of a safetensors file, which holds no code, to a module [B 3 H W] in [-1, 1] -> the same.
    multiple: what its sides must be multiples of.
    bgr: whether blue comes first.
    where: where the user gets the weights, under which licence, and how they become a safetensors file.
    """

    build: Callable[[dict[str, Tensor]], nn.Module]
    multiple: int
    bgr: bool
    where: str


ARCHITECTURES: Mapping[str, Architecture] = {
    "whitebox": Architecture(
        build=WhiteboxGenerator.from_weights,
        multiple=8,
        bgr=True,
        where=f"{WHERE}, and convert it: python -m ip2p_lightning.cli.convert_teacher IN OUT.safetensors",
    )
}


@dataclass(frozen=True)
class GeneratorTeacher:
    """Photo -> stylised photo: ``[H W 3]`` float32 in [0, 1], sRGB, to the same, rounded to 8 bits. Deterministic.

    The weights are loaded at the first call, in the process that makes it; only their presence is checked before.
    Raises UserError: no weights there, an unknown architecture, an impossible size.

    weights: a safetensors file; for White-box Cartoonization, as `cli.convert_teacher` writes it.
    architecture: one of `ARCHITECTURES`.
    device: auto: the GPU if there is one, except in a data loader's worker, which must not touch it.
    short_side: a photo whose shorter side is longer is stylised at this size, as the original experiment did, and then
        enlarged again; use `prepare` for the pair at the smaller size. None: at the photo's own size.
    batch_size: images at once on a GPU. On a CPU it is one by one, which costs nothing there.
    """

    makes: ClassVar[Literal["edited"]] = "edited"

    weights: str
    architecture: str = "whitebox"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    short_side: int | None = 720
    batch_size: int = 8
    _loaded: dict[str, nn.Module] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            known = f"{suggest(self.architecture, ARCHITECTURES)}; known: {', '.join(ARCHITECTURES)}"
            raise UserError(f"architecture={self.architecture}: no such generator{known}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={self.device}: give auto, cpu or cuda")
        for name in ("short_side", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: give a positive number")
        if not Path(self.weights).expanduser().is_file():
            raise UserError(f"no weights at {self.weights}; {self._kind.where}")

    def __call__(self, photo: Image, rng: np.random.Generator | None = None) -> Image:
        """The stylised `photo`; `rng` is not used. Raises DamagedError for weights that do not fit."""
        return self.batch([photo])[0]

    def batch(self, photos: Sequence[Image]) -> list[Image]:
        """The stylised `photos`, in their order; those of one size share a pass on a GPU.

        Raises DamagedError: the weights are damaged, or another network's; UserError: `device` is cuda without a GPU.
        """
        device = self._device()
        small = [reduce(photo.astype(np.float32), self.short_side) for photo in photos]
        made: list[Image] = [np.empty(0)] * len(photos)
        for places in _groups([photo.shape for photo in small], 1 if device == "cpu" else self.batch_size):
            stack = np.stack([pad(small[i], self._kind.multiple) for i in places])
            for i, image in zip(places, self._run(stack, device), strict=True):
                height, width = small[i].shape[:2]
                made[i] = enlarge(image[:height, :width], photos[i].shape[:2])
        return made

    def prepare(self, photo: Image) -> Image:
        """`photo` as upstream showed it to the network: reduced to `short_side`, cropped to multiples of 8.

        ``(prepare(photo), teacher(prepare(photo)))`` is the original experiment's pair.
        """
        small = reduce(photo.astype(np.float32), self.short_side)
        height, width = (side // self._kind.multiple * self._kind.multiple for side in small.shape[:2])
        return small[:height, :width]

    def digest(self) -> str:
        """Changes with what decides a photo's other side: settings and weights. Raises StorageError."""
        path = Path(self.weights).expanduser()
        with storage_errors(path, "read"):
            return f"{self.architecture} {self.short_side} {sha256_of(path)}"

    @property
    def _kind(self) -> Architecture:
        return ARCHITECTURES[self.architecture]

    def _run(self, photos: np.ndarray, device: str) -> np.ndarray:  # both [B H W 3] in [0, 1], H W multiples
        order = slice(None, None, -1) if self._kind.bgr else slice(None)
        # From 8 bits: what upstream computed from. A contiguous tensor, so that one code path serves all layouts.
        x = np.ascontiguousarray(np.round(photos * 255)[..., order].transpose(0, 3, 1, 2)).astype(np.float32)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            y = self._network(device)(torch.from_numpy(x / np.float32(127.5) - 1).to(device)).float().cpu().numpy()
        levels = np.floor(np.clip((y + 1) * 127.5, 0, 255))  # towards 0, as upstream's astype(uint8)
        return (levels / 255).astype(np.float32).transpose(0, 2, 3, 1)[..., order]

    def _device(self) -> str:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda: this machine has no GPU that torch can use; give task.make.device=auto")
        if self.device != "auto":
            return self.device
        return "cuda" if torch.utils.data.get_worker_info() is None and torch.cuda.is_available() else "cpu"

    def _network(self, device: str) -> nn.Module:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if device in self._loaded:
            return self._loaded[device]
        path = Path(self.weights).expanduser()
        try:
            with storage_errors(path, "read"):
                network = self._kind.build(load_file(path))
        except (SafetensorError, RuntimeError, KeyError) as error:
            reason = str(error).strip().splitlines()[0][:120]
            raise DamagedError(f"{path}: not weights of {self.architecture} ({reason}); {self._kind.where}") from None
        self._loaded[device] = network.to(device)
        return network

    def __getstate__(self) -> dict[str, Any]:
        """Without the network: each process loads its own, on its own device."""
        return self.__dict__ | {"_loaded": {}}


def _groups(shapes: Sequence[tuple[int, ...]], size: int) -> Iterator[list[int]]:
    """Indices of equal shapes, at most `size` together."""
    order = sorted(range(len(shapes)), key=lambda i: (shapes[i], i))
    for _, same in itertools.groupby(order, key=lambda i: shapes[i]):
        group = list(same)
        yield from (group[i : i + size] for i in range(0, len(group), size))
