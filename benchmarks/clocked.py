"""Run a training script unchanged and note the time at each of its optimizer steps.

``python -m benchmarks.clocked OUT.json SCRIPT_OR_MODULE ARGUMENTS...``; a name that ends in .py is a script.
"""

from __future__ import annotations

import json
import resource
import runpy
import sys
import time
from pathlib import Path

_born = time.perf_counter()


def main() -> None:
    """Hook every torch optimizer from outside, then become the script."""
    out, script, *words = sys.argv[1:]
    rows: list[list[float]] = []

    def note(*_: object) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append([time.perf_counter() - _born, time.process_time(), peak])
        Path(out).write_text(json.dumps(rows))

    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import ip2p_lightning  # noqa: F401  makes torchvision importable, for the peer too

    torch.set_num_threads(1)
    register_optimizer_step_post_hook(note)
    sys.argv = [script, *words]
    if script.endswith(".py"):
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module(script, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
