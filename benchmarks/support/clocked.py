"""Run a training script unchanged and note the time at each of its optimizer steps.

``python -m benchmarks.support.clocked OUT.json SCRIPT_OR_MODULE ARGUMENTS...``; a name that ends in .py is a script.
"""

import json
import resource
import runpy
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.support.command import environment

_born = time.perf_counter()


def clocked(words: list[str], log: Path) -> list[list[float]]:
    """Wall seconds, CPU seconds and peak MB at the end of each optimizer step of a script in a process of its own."""
    out = log.with_suffix(".json")
    with log.open("w") as file:
        command = [sys.executable, "-m", "benchmarks.support.clocked", str(out), *words]
        subprocess.run(command, check=True, env=environment(), stdout=file, stderr=subprocess.STDOUT)
    return json.loads(out.read_text())


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
