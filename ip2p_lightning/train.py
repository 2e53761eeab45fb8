"""``ip2p-train``: compose a config, claim a run's folder, train. The same command continues its run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ip2p_lightning.config.hydra_errors import explain
from ip2p_lightning.errors import PreemptedError, PrunedError, StorageError, exit_code, outcome, root
from ip2p_lightning.system.files import remove_empty
from ip2p_lightning.system.imports import uncollected
from ip2p_lightning.system.processes import heed_supervisor
from ip2p_lightning.system.signals import leave_when_asked

DONE = 0


def main() -> None:
    """The console command: Hydra's command line, with refusals in one line and distinct exit codes.

    What takes time to import comes after this line: until then a signal is Python's, and Ctrl-C a traceback.
    """
    leave_when_asked()
    sys.exit(exit_code(_main))


def _main() -> int:
    with uncollected():
        import hydra

        from ip2p_lightning import launchers, plugins
        from ip2p_lightning.commands import one_line_warnings
        from ip2p_lightning.config.compose import CONF

    one_line_warnings()
    heed_supervisor()
    plugins.register()
    # Hydra would print its own account of an error and exit with 1: let errors through, `explain` words them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = _as_hydra_reads_them(sys.argv[1:])
    codes: list[int] = []
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(lambda c: codes.append(_job(c)))()
    except Exception as error:
        raise explain(error, sys.argv[1:]) from None
    launchers.conclude()
    return max(codes, default=DONE)


def _as_hydra_reads_them(words: list[str]) -> list[str]:
    """Words as typed, wherever among them a sweep is asked for: Hydra takes no override before and after ``-m``."""
    return [_as_hydra_reads_it(word) for word in sorted(words, key=lambda word: word not in ("-m", "--multirun"))]


def _as_hydra_reads_it(word: str) -> str:
    if word == "--dry-run":
        return "dry_run=true"
    if word.startswith("fault=") and "=" in word[6:] and word[6] not in "'\"":  # Hydra takes no bare = in a value
        return f"fault='{word[6:]}'"
    return word


def _job(composed: Any) -> int:
    """What Hydra calls with a composed config; returns an exit code, so that Hydra has nothing to report."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from ip2p_lightning import launchers

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode == RunMode.MULTIRUN:  # our launchers start a job's own command, which is no sweep
        remove_empty(folder)
        launchers.refuse_others(hydra.launcher._target_)
    code = exit_code(lambda: train(_checked(composed), folder))
    remove_empty(folder)  # of a run that was refused, or only checked
    return code


def _checked(composed: Any) -> dict[str, Any]:
    """The config, checked; imports the classes that it names."""
    with uncollected():
        from ip2p_lightning.config.build import checked

        return checked(composed)


def train(config: Mapping[str, Any], folder: Path) -> int:
    """Train a checked config in `folder` (or a sibling, if a live run holds it).

    Returns:
        0 when the run is complete.

    Raises:
        UserError and its kin: see ``errors``.
    """
    from ip2p_lightning import group
    from ip2p_lightning.config import build
    from ip2p_lightning.runs import data_fingerprint, resume
    from ip2p_lightning.runs import folder as run_folder
    from ip2p_lightning.system.file_digests import MEMO, Digests

    data = build.build_data(config)  # opens the data: what is wrong with it shows before any weights are read
    data.setup("fit")
    if config["dry_run"]:
        from ip2p_lightning import estimate

        where = build.places(config)  # first: what is not there is no good config
        print(f"{_summary(config, data)}\n{where}")
        print(estimate.told(config))
        return DONE
    if group.place() == "srun" and group.rank() > 0:
        return _follow(config, folder, data)
    with group.leading(folder):
        run = run_folder.claim(folder)
        checkpoint = resume.adopt(run, config, config["resume"], config["resume_allow"])
        if resume.is_complete(run.path, config):
            print(f"already complete: {run.path}")
            return DONE
        splits = ("train", "val") if config["val_every"] else ("train",)
        bad = data_fingerprint.left_out(run, checkpoint is None)
        memo = Path(config["cache_dir"]).expanduser() / MEMO if config["cache"] != "off" else None
        data_fingerprint.adopt_data(
            run, data.contents(splits, Digests(memo)), checkpoint is None, config["resume_allow"], bad
        )
        _lead(config, run, data, checkpoint, folder)
    print(f"complete: {run.path}\ncompare runs: tensorboard --logdir {run.path.parent}")
    return DONE


def _lead(config: Mapping[str, Any], run: Any, data: Any, checkpoint: str | None, folder: Path) -> None:
    """Train as the process that holds the run's folder and writes its status."""
    from ip2p_lightning import group, srun
    from ip2p_lightning.cache_choice import settle
    from ip2p_lightning.fit import fit
    from ip2p_lightning.merging import settled
    from ip2p_lightning.runs import folder as run_folder

    request = _stop_request()
    origin = {"command": run_folder.command(), "commit": run_folder.commit(), "overrides": _overrides()}
    run.write_status("running", **origin, exit_code=None, reason=None)
    try:
        settled(config, run.path, afresh=checkpoint is None)  # before there are ranks, which must agree
        processes = group.size(config["trainer"])
        settle(config, run.path, data, max(processes, group.world()), afresh=checkpoint is None)
        if group.place() == "srun":
            srun.announce(folder, run.path, checkpoint)
        if group.place() == "single" and processes > 1:
            step = group.supervise(run.path, checkpoint, processes, request)
        else:
            step = fit(config, run.path, data, checkpoint, request)
    except BaseException as error:
        _record(run, error)
        if group.place() == "srun":
            group.tell_stacks(run.path)
        raise
    run.write_status("complete", step=step, exit_code=DONE, reason=None)


def _follow(config: Mapping[str, Any], folder: Path, data: Any) -> int:
    """Train as another rank of an ``srun``, in the folder that rank 0 claimed."""
    from ip2p_lightning import srun
    from ip2p_lightning.fit import fit

    request = _stop_request()
    path, checkpoint = srun.await_start(folder, config["timeout"])
    if path is None:
        return int(checkpoint)
    fit(config, path, data, checkpoint, request)
    return DONE


def _stop_request() -> Any:
    """What this process is asked to do from now on; the tasks of an ``srun`` wait until they can agree on it."""
    from ip2p_lightning import group
    from ip2p_lightning.system.signals import StopRequest

    request = StopRequest()
    request.patient = group.place() == "srun"
    request.listen()
    return request


def _record(run: Any, error: BaseException) -> None:
    """Say in ``status.json`` why the run ended."""
    code, reason = outcome(error)
    error = root(error)
    state = "preempted" if isinstance(error, PreemptedError | KeyboardInterrupt) else "failed"
    state = "pruned" if isinstance(error, PrunedError) else state
    with contextlib.suppress(StorageError):  # a full disk must not hide what ended the run
        run.write_status(state, reason=reason, exit_code=code)


def _overrides() -> list[str]:
    """What this run was told to do differently, as typed: the hyperparameters that tell runs apart."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _summary(config: Mapping[str, Any], data: Any) -> str:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in data.shares.items())
    return f"dry run: the config is good; tasks: {shares}; {config['trainer']['max_steps']} steps; nothing was trained"


if __name__ == "__main__":
    main()
