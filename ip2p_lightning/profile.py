"""A trace of a few training steps, for TensorBoard or Perfetto, and one page that says where their time went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.profiler import ProfilerActivity, profile

WARM_UP = 2  # optimizer steps before the trace: allocations, compilation, the cache's first entries


class Profile(Callback):
    """Traces `steps` optimizer steps into ``folder/trace.json`` and ``folder/breakdown.md``, on rank 0."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = Path(folder), steps
        self.profiler: Any = None
        self.first: int | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.first = trainer.global_step if self.first is None else self.first
        if self.profiler is None and trainer.is_global_zero and trainer.global_step == self.first + WARM_UP:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if pl_module.device.type == "cuda" else []
            self.profiler = profile(activities=activities, profile_memory=True)
            self.profiler.__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if self.first is not None and trainer.global_step >= self.first + WARM_UP + self.steps:
            self._write(pl_module.device)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(pl_module.device)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._write(pl_module.device)

    def _write(self, device: torch.device) -> None:
        profiler, self.profiler = self.profiler, False if self.profiler else self.profiler
        if not profiler:
            return
        profiler.__exit__(None, None, None)
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        (self.folder / "breakdown.md").write_text(breakdown(profiler.key_averages(), device.type, self.steps))


def breakdown(events: Any, device: str, steps: int, rows: int = 25) -> str:
    """One page of Markdown: the operations that took most time by themselves."""
    kind = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    found = sorted(events, key=lambda e: getattr(e, kind), reverse=True)
    whole = sum(getattr(e, kind) for e in found) or 1
    lines = [
        f"# {steps} optimizer steps: {whole / 1e6 / max(1, steps):.3f} s of {device} time each",
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
