"""A trace of a few training steps, for TensorBoard or Perfetto, and one page that says where their time went."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

WARM_UP = 2  # optimizer steps before the trace: allocations, compilation, the cache's first entries


class Profile(Callback):
    """Traces `steps` optimizer steps, or as many as the run still takes after the warm-up, into ``folder/trace.json``
    and ``folder/breakdown.md``, on rank 0. Warns where the run ends before there is anything to trace.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = Path(folder), steps
        self.profiler: Any = None
        self.begin: int | None = None  # the first step to trace

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.begin = trainer.global_step + WARM_UP if self.begin is None else self.begin
        if self.profiler is None and trainer.is_global_zero and trainer.global_step == self.begin:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if pl_module.device.type == "cuda" else []
            self.profiler = profile(activities=activities, profile_memory=True)
            self.profiler.__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if self.begin is not None and trainer.global_step >= self.begin + self.steps:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(trainer, pl_module)
        if self.profiler is None and trainer.is_global_zero and self.begin is not None:
            told = (
                f"profile_steps={self.steps}: nothing was traced, the run ended within the {WARM_UP} steps to warm up"
            )
            warnings.warn(
                f"{told}; give trainer.max_steps={self.begin + self.steps} or more", stacklevel=1
            )  # the caller is Lightning, which is kept quiet

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: Any) -> None:
        profiler, self.profiler = self.profiler, False if self.profiler else self.profiler
        if not profiler or self.begin is None:
            return
        profiler.__exit__(None, None, None)
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        traced = trainer.global_step - self.begin
        if traced:  # else the run was stopped within the first of them
            page = breakdown(profiler.key_averages(), pl_module.device.type, traced)
            (self.folder / "breakdown.md").write_text(page)


def breakdown(events: Any, device: str, steps: int, rows: int = 25) -> str:
    """One page of Markdown: the operations (on a GPU its kernels and copies) that took most time by themselves.

    Args:
        events: averages of a profiler, `steps` (at least 1) optimizer steps together.
        device: cpu or cuda.
    """
    kind = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    found = sorted(filter(_on_device, events) if device == "cuda" else events, key=lambda e: -getattr(e, kind))
    whole = sum(getattr(e, kind) for e in found) or 1
    lines = [
        f"# {steps} optimizer steps: {whole / 1e6 / steps:.3f} s of {device} time each",
        "",
        "Open trace.json in https://ui.perfetto.dev or in TensorBoard.",
        "",
        "| operation | share | ms a step | calls a step |",
        "|---|---|---|---|",
    ]
    for event in found[:rows]:
        own = getattr(event, kind)
        cells = [f"{own / whole:.1%}", f"{own / 1e3 / steps:.1f}", f"{event.count / steps:.0f}"]
        lines.append(f"| `{event.key}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _on_device(event: Any) -> bool:
    """Whether a GPU was busy with it. Operations of the host carry their kernels' time a second time, annotations a
    third; torch's own table sums the same events."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation
