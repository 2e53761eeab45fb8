"""``ip2p-train``: compose a config, claim a run's folder, train. The same command continues its run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ip2p_lightning.cli.parser import one_line_warnings, run_hydra, version
from ip2p_lightning.errors import exit_code
from ip2p_lightning.system.files import remove_empty
from ip2p_lightning.system.imports import gc_paused
from ip2p_lightning.system.processes import stop_with_supervisor
from ip2p_lightning.system.signals import exit_on_signal
from ip2p_lightning.training.distributed import environment, launch
from ip2p_lightning.training.train import train

WITH_VALUE = ("-cn", "--config-name", "-cd", "--config-dir", "-cp", "--config-path", "-c", "--cfg", "-p", "--package")
PAGE = """ip2p-train: train a model to follow editing instructions.
usage: ip2p-train [--config-dir DIR] [--config-name NAME] [-m] [GROUP=MEMBER ...] [KEY=VALUE ...]

  ip2p-train                                        the embedded model on all four tasks, offline, on a CPU
  ip2p-train task=derain prompts=single             one task, one sentence
  ip2p-train data=folder data.root=DIR task=own task.name=sepia 'task.prompts.prompts=[make it sepia]'
  ip2p-train model=local model.path=DIR trainer=gpu fine-tune a diffusers folder
  ip2p-train -m prompts=name,paraphrase seed=0,1    four runs, each in its own folder
  ip2p-train -cn first_light                        an experiment, a sweep with a question: {experiments}
  ip2p-train ... dry_run=true                       check everything, train nothing
  ip2p-train ... --cfg job                          print the composed config: every key, its value and the prompts

The same command continues its run. Exit codes: 0 done, 2 config, 3 data, 4 non-finite, 5 disk or permission,
6 damaged checkpoint, 7 refused for safety, 8 some jobs of a sweep not complete, 9 pruned, 143 preempted.

Groups (GROUP=MEMBER)
{groups}

Keys (KEY=VALUE) are those that --cfg job prints, such as trainer.max_steps=100. --hydra-help: Hydra's own options;
--shell-completion install=bash (or zsh, fish): TAB completes groups, members and keys; --version.
"""


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
    if asked := {"-h", "--help", "--version"} & set(sys.argv[1:]):
        print(version() if asked == {"--version"} else page(), end="")
        return 0
    with gc_paused():
        from ip2p_lightning.sweeps import local_launcher, plugins

    one_line_warnings()
    stop_with_supervisor()
    environment.end_with_launcher()
    plugins.register()
    words = options_first("dry_run=true" if word == "--dry-run" else word for word in sys.argv[1:])
    code = run_hydra("train", [sys.argv[0], *words], _job)
    local_launcher.conclude()
    return code


def options_first(words: Iterable[str]) -> list[str]:
    """Hydra's options, with their values, before the overrides: Hydra takes no overrides on both sides of one."""
    options, overrides, before = list[str](), list[str](), ""
    for word in words:
        (options if word.startswith("-") or before in WITH_VALUE else overrides).append(word)
        before = word
    return [*options, *overrides]


def page() -> str:
    """What ``--help`` prints. The keys are not in it: with the prompts they are 500 lines, and composing takes time."""
    from ip2p_lightning.config.compose import CONF
    from ip2p_lightning.config.hydra_errors import experiments, members

    folders = [p.relative_to(CONF).as_posix() for p in sorted([*CONF.iterdir(), *(CONF / "hydra").iterdir()])]
    known = {group: members(group) for group in folders if group not in ("hydra", "source", "recipe")}
    groups = "\n".join(f"  {group}: {', '.join(names)}" for group, names in known.items() if names)
    return PAGE.format(groups=groups, experiments=", ".join(experiments()))


def _job(composed: Any) -> int:
    """Train with a composed config; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from ip2p_lightning.config.quoting import notes_on_commas
    from ip2p_lightning.sweeps import plugins

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode == RunMode.MULTIRUN:  # our launchers start each job as a command of its own, which is no multirun
        remove_empty(folder)
        plugins.refuse_others(hydra.launcher._target_)
    for note in notes_on_commas(hydra.overrides.task) if environment.leads() else ():
        print(note)
    code = exit_code(lambda: launch.as_rank(lambda: train(_checked(composed), folder, hydra.overrides.task)))
    remove_empty(folder)  # of a run with an error in its config, or of a dry run
    return code


def _checked(composed: Any) -> dict[str, Any]:
    with gc_paused():
        from ip2p_lightning.config.build import checked

        return checked(composed)


if __name__ == "__main__":
    main()
