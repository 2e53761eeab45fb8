"""A trace of a few training steps, for TensorBoard or Perfetto, and a table of where their time went."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

WARM_UP = 2  # optimizer steps before the trace: allocations, compilation, the cache's first entries


class Profile(Callback):
    """Traces up to `steps` optimizer steps after a warm-up on rank 0 into ``profile/trace.json`` and
    ``profile/breakdown.md`` in the run's `folder`. Warns if the run ends before the warm-up does."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = Path(folder) / "profile", steps
        self.profiler: profile | None = None
        self.begun, self.step, self.device = 0, 0, "cpu"

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self.begun = self.step = trainer.global_step
        self.device = pl_module.device.type
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device == "cuda" else [])]
        plan = schedule(wait=0, warmup=WARM_UP, active=self.steps, repeat=1)
        self.profiler = profile(activities=activities, schedule=plan, on_trace_ready=self._write, profile_memory=True)
        self.profiler.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if self.profiler is not None and trainer.global_step != self.step:
            self.step = trainer.global_step
            self.profiler.step()
            if self.step >= self.begun + WARM_UP + self.steps:
                self.profiler = None  # written; the schedule is over

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.on_exception()
        if trainer.is_global_zero and self.step <= self.begun + WARM_UP:
            warnings.warn(
                f"callbacks.profiler.steps={self.steps}: nothing was traced, the run ended within the {WARM_UP} steps "
                f"to warm up; give trainer.max_steps={self.begun + WARM_UP + self.steps} or more",
                stacklevel=1,  # the caller is Lightning, which is kept quiet
            )

    def on_exception(self, *_: Any) -> None:
        profiler, self.profiler = self.profiler, None
        if profiler is not None:
            profiler.stop()  # calls `_write` if it is tracing

    def _write(self, profiler: profile) -> None:
        traced = min(self.step - self.begun - WARM_UP, self.steps)
        if traced > 0:  # else the run ended within the first of them
            self.folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(self.folder / "trace.json"))
            (self.folder / "breakdown.md").write_text(breakdown(profiler.key_averages(), self.device, traced))


def breakdown(events: Any, device: str, steps: int, rows: int = 25) -> str:
    """A Markdown table of the operations (on a GPU: kernels and copies) with most self time in `steps` >= 1 steps."""
    kind = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    shown = filter(_on_device, events) if device == "cuda" else (e for e in events if not e.is_user_annotation)
    found = sorted(shown, key=lambda e: -getattr(e, kind))
    whole = sum(getattr(e, kind) for e in found) or 1
    lines = [
        f"# {steps} optimizer steps: {whole / 1e6 / steps:.3f} s of {device} time each\n",
        "Open trace.json in https://ui.perfetto.dev or in TensorBoard.\n",
        "| operation | share | ms a step | calls a step |\n|---|---|---|---|",
    ]
    for event in found[:rows]:
        own = getattr(event, kind)
        lines.append(f"| `{event.key}` | {own / whole:.1%} | {own / 1e3 / steps:.1f} | {event.count / steps:.0f} |")
    return "\n".join(lines) + "\n"


def _on_device(event: Any) -> bool:
    """Whether it ran on a GPU; host operations and annotations repeat their kernels' time."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation
