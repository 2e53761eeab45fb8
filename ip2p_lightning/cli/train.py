"""``ip2p-train``: compose a config, claim a run's folder, train. The same command continues its run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ip2p_lightning.config.hydra_errors import explain
from ip2p_lightning.errors import exit_code
from ip2p_lightning.system.files import remove_empty
from ip2p_lightning.system.imports import uncollected
from ip2p_lightning.system.processes import heed_supervisor
from ip2p_lightning.system.signals import leave_when_asked
from ip2p_lightning.training.distributed import environment, launch
from ip2p_lightning.training.train import DONE, train


def main() -> None:
    """The console command: Hydra's command line, with refusals in one line and distinct exit codes.

    What takes time to import comes after this line: until then a signal is Python's, and Ctrl-C a traceback.
    """
    leave_when_asked()
    code = exit_code(lambda: launch.as_rank(_main))
    if code and environment.place() != "single":
        sys.stdout.flush()
        os._exit(code)  # a rank that failed must not wait for the others in a destructor
    sys.exit(code)


def _main() -> int:
    with uncollected():
        import hydra

        from ip2p_lightning.cli.parser import one_line_warnings
        from ip2p_lightning.config.compose import CONF
        from ip2p_lightning.config.hydra_guard import guard_hydra
        from ip2p_lightning.sweeps import local_launcher, plugins

    one_line_warnings()
    heed_supervisor()
    environment.end_with_launcher()
    plugins.register()
    guard_hydra()
    # Hydra would print its own account of an error and exit with 1: let errors through, `explain` words them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = _as_hydra_reads_them(sys.argv[1:])
    codes: list[int] = []
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(lambda c: codes.append(_job(c)))()
    except Exception as error:
        raise explain(error, sys.argv[1:]) from None
    local_launcher.conclude()
    return max(codes, default=DONE)


def _as_hydra_reads_them(words: list[str]) -> list[str]:
    """Words as typed, wherever among them a sweep is asked for: Hydra takes no override before and after ``-m``."""
    ordered = sorted(words, key=lambda word: word not in ("-m", "--multirun"))
    return ["dry_run=true" if word == "--dry-run" else word for word in ordered]


def _job(composed: Any) -> int:
    """What Hydra calls with a composed config; returns an exit code, so that Hydra has nothing to report."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from ip2p_lightning.sweeps import plugins

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode == RunMode.MULTIRUN:  # our launchers start a job's own command, which is no sweep
        remove_empty(folder)
        plugins.refuse_others(hydra.launcher._target_)
    code = exit_code(lambda: train(_checked(composed), folder, hydra.overrides.task))
    remove_empty(folder)  # of a run that was refused, or only checked
    return code


def _checked(composed: Any) -> dict[str, Any]:
    """The config, checked; imports the classes that it names."""
    with uncollected():
        from ip2p_lightning.config.build import checked

        return checked(composed)


if __name__ == "__main__":
    main()
