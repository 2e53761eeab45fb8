"""How examples become batches."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Sampler

from ip2p_lightning.data.bad_pairs import Watched
from ip2p_lightning.data.batch_sampler import Key
from ip2p_lightning.data.example import EditExample
from ip2p_lightning.data.transforms import MULTIPLE, View
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.system.processes import die_with_parent


@dataclass(frozen=True)
class Loader:
    """Sizes, crops and worker processes.

    batch_size: examples per batch and rank.
    eval_batch_size: the same in validation and testing; None: `batch_size`, or 1 where `eval_size` is None.
    size: side of a training crop in pixels, a multiple of 8.
    resize: short side before the crop, a whole number drawn from [low, high] pixels; None leaves the scale.
    crop: where a training crop lies.
    eval_size: side of the centre crop in validation and testing, a multiple of 8 from 16 on; where `resize` is given,
        the short side is first scaled to it. None: the whole image at its own scale, cut to multiples of 8.
    workers: processes that prepare batches, per rank; 0 prepares them in the training process.
    epoch_size: examples in an epoch, over all tasks and ranks; None: as many as there are pairs.
    eval_draws: times each validation or test pair is shown, with a degradation and prompt of its own.
    pin_memory: page-locked batches, for a GPU.
    timeout: seconds after which a batch that no worker delivers is an error; 0: no limit.
    max_bad: unreadable training pairs that a run leaves out and lists in its bad.jsonl; one more is an error.
    Raises `UserError` on values outside these.
    """

    batch_size: int = 12
    eval_batch_size: int | None = None
    size: int = 64
    resize: tuple[int, int] | None = None
    crop: Literal["random", "center"] = "random"
    eval_size: int | None = 256
    workers: int = 0
    epoch_size: int | None = None
    eval_draws: int = 1
    pin_memory: bool = False
    timeout: float = 0
    max_bad: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_batch_size", "epoch_size", "eval_draws"):
            _check(name, getattr(self, name), 1)
        _check("size", self.size, MULTIPLE, MULTIPLE)
        _check("eval_size", self.eval_size, 2 * MULTIPLE, MULTIPLE)  # SSIM's window has a side of 11
        for name in ("workers", "max_bad"):
            _check(name, getattr(self, name), 0)
        if not self.timeout >= 0:
            raise UserError(f"loader.timeout={self.timeout}: give seconds, 0 or more")
        if self.eval_size is None and (self.eval_batch_size or 1) > 1:
            raise UserError("loader.eval_size=null shows whole images, of many sizes: set loader.eval_batch_size=1")
        if self.resize is not None:
            object.__setattr__(self, "resize", tuple(self.resize))  # a YAML list
        self.view("train", 0.0)

    def view(self, split: str, flip: float) -> View:
        """Geometry of a split; `flip` applies to training only."""
        if split == "train":
            return View(self.size, self.resize, self.crop, flip)
        scaled = (self.eval_size, self.eval_size) if self.resize and self.eval_size else None
        return View(self.eval_size, scaled, "center", 0.0)

    @property
    def batch_size_of_eval(self) -> int:
        """Examples per batch in validation and testing."""
        return self.eval_batch_size or (1 if self.eval_size is None else self.batch_size)


def _begin_worker(number: int) -> None:
    """A worker that hangs must not outlive its run."""
    parent = multiprocessing.parent_process()
    die_with_parent(ancestor=parent.pid if parent else None)


def _check(name: str, value: int | None, least: int, step: int = 1) -> None:
    if value is not None and (value < least or value % step):
        what = f"a multiple of {step}, {least} or more" if step > 1 else f"a whole number, {least} or more"
        raise UserError(f"loader.{name}={value}: give {what}")


class Batches:
    """An iterable of collated batches (`EditExample` of ``[B 3 H W]`` tensors and lists), with a length.

    Not a `DataLoader`: Lightning re-creates those with samplers of its own, and ours already know their rank and place.
    """

    def __init__(self, dataset: Any, keys: Sampler[list[Key]], loader: Loader, collate: Any = None) -> None:
        self.examples, self.keys = Watched(dataset, loader.workers), keys
        self._pids: list[int] = []
        self._loader = DataLoader(
            self.examples,
            batch_sampler=keys,
            num_workers=loader.workers,
            collate_fn=collate,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout if loader.workers else 0,
            persistent_workers=loader.workers > 0,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # its seeds for workers are not ours to use, nor to take from the global state
        )

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[EditExample]:
        batches = iter(self._loader)  # at once: it reads the position
        self._pids = [worker.pid for worker in getattr(batches, "_workers", ())]
        return self._one_line_errors(batches)

    def _one_line_errors(self, batches: Iterator[EditExample]) -> Iterator[EditExample]:
        """A worker's error arrives with its traceback as text; users get the one line it began as."""
        try:
            yield from batches
        except RuntimeError as error:
            raise self.explained(error) or error from None
        except UserError as error:
            self.close()
            text = str(error).strip()
            if "Traceback" not in text:
                raise
            raise type(error)(text.splitlines()[-1].partition("Error: ")[2]) from None

    def explained(self, error: RuntimeError) -> DataError | None:
        """A hanging or dead worker as one line that names it, and the pair it was at; None: the error is another one.

        Ends all workers at once: one that hangs does not listen.
        """
        text = str(error)
        if not text.startswith("DataLoader"):  # torch has no class for it
            return None
        busy = [n for n in range(self.examples.workers) if self.examples.at(n)]
        dead = [n for n, pid in enumerate(self._pids) if str(pid) in re.findall(r"\d+", text)]
        if "timed out" in text:
            what, how = f"no batch for {self._loader.timeout:g} s (loader.timeout)", "look at the disk, or wait longer"
        elif dead or busy:
            what, how = " ".join(text.split()), "perhaps out of memory: lower loader.workers or loader.size"
        else:
            return None  # another loader's
        self._kill()
        named = [f"worker {n} was at {self.examples.at(n)}" for n in busy if n in dead or not dead]
        return DataError(f"{what}; {', '.join(named) or 'at no pair'}; {how}; the same command continues")

    def _kill(self) -> None:
        workers = getattr(self._iterator, "_workers", ())
        for _ in range(2):  # torch's handler of SIGCHLD takes the first death for a failure, in the middle of this
            with contextlib.suppress(RuntimeError):
                for worker in workers:
                    worker.kill()
                for worker in workers:
                    worker.join(5)
        self.close()

    def close(self) -> None:
        """End the worker processes now (the garbage collector takes 5 s for each); the next iter() starts new ones."""
        iterator, self._iterator = self._iterator, None
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()

    @property
    def _iterator(self) -> Any:
        """What a `DataLoader` keeps between epochs, by the name under which Lightning looks for it to close it."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self._loader._iterator = value

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position follows from the batches done. Tells Lightning that a restart loses nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
