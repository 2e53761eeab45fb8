"""``ip2p-train``: compose a config, claim a run's folder, train. The same command continues its run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ip2p_lightning.cli.parser import one_line_warnings, run_hydra
from ip2p_lightning.errors import exit_code
from ip2p_lightning.system.files import remove_empty
from ip2p_lightning.system.imports import gc_paused
from ip2p_lightning.system.processes import stop_with_supervisor
from ip2p_lightning.system.signals import exit_on_signal
from ip2p_lightning.training.distributed import environment, launch
from ip2p_lightning.training.train import train


def main() -> None:
    """The console command: Hydra's command line, errors in one line, distinct exit codes.

    Slow imports come after `exit_on_signal`: before it, Ctrl-C is a traceback.
    """
    exit_on_signal()
    code = exit_code(lambda: launch.as_rank(_main))
    if code and environment.place() != "single":
        sys.stdout.flush()
        os._exit(code)  # a rank that failed must not wait for the others in a destructor
    sys.exit(code)


def _main() -> int:
    with gc_paused():
        from ip2p_lightning.sweeps import local_launcher, plugins

    one_line_warnings()
    stop_with_supervisor()
    environment.end_with_launcher()
    plugins.register()
    words = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants -m before overrides
    code = run_hydra("train", [sys.argv[0], *("dry_run=true" if w == "--dry-run" else w for w in words)], _job)
    local_launcher.conclude()
    return code


def _job(composed: Any) -> int:
    """Train with a composed config; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from ip2p_lightning.sweeps import plugins

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode == RunMode.MULTIRUN:  # our launchers start each job as a command of its own, which is no multirun
        remove_empty(folder)
        plugins.refuse_others(hydra.launcher._target_)
    code = exit_code(lambda: launch.as_rank(lambda: train(_checked(composed), folder, hydra.overrides.task)))
    remove_empty(folder)  # of a run with an error in its config, or of a dry run
    return code


def _checked(composed: Any) -> dict[str, Any]:
    with gc_paused():
        from ip2p_lightning.config.build import checked

        return checked(composed)


if __name__ == "__main__":
    main()
