"""One training run: claim its folder, resume, start its ranks, record how it ended."""

from __future__ import annotations

import contextlib
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.errors import PreemptedError, PrunedError, StorageError, UserError, outcome, user_error
from ip2p_lightning.runs import folder as run_folder
from ip2p_lightning.system.signals import StopRequest
from ip2p_lightning.training.distributed import environment, launch, rendezvous

DONE = 0


def train(config: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()) -> int:
    """Train a checked config in `folder` (or a sibling, if a live run holds it); 0 when the run is complete.

    Raises UserError and its subclasses in ``errors``.
    """
    if not environment.leads():
        return _follow(config, folder)
    with rendezvous.leading(folder):
        environment.check_launch(config["trainer"])
        return _lead(config, folder, overrides)


def _lead(config: Mapping[str, Any], folder: Path, overrides: Sequence[str]) -> int:
    """Claim the run's folder, for all its ranks, and train."""
    from ip2p_lightning.config import build
    from ip2p_lightning.runs import data_fingerprint, resume

    parts = build.build_without_weights(config)
    parts["sampler"].check(parts["objective"])
    # opens the data: what is wrong with it shows before any weights are read
    data = build.build_data(config, remember=not config["dry_run"])
    data.setup("fit")
    splits = ("train", "val") if config["val_every"] else ("train",)
    if few := data.few_photos((*splits, "test")):
        print(few)
    lacking = environment.missing_gpus(config["trainer"])
    if config["dry_run"]:
        from ip2p_lightning.training.dry_run import places
        from ip2p_lightning.training.memory import estimate

        where = places(config)  # first: missing weights are an error in the config
        print(f"{_summary(config, data, lacking)}\n{where}\n{estimate.describe_memory(config)}")
        return DONE
    if lacking:
        remedy = "give trainer=cpu, or start it where there is" if lacking == "no GPU" else "give trainer.devices=1"
        raise UserError(f"trainer.accelerator={config['trainer']['accelerator']}: {lacking} here; {remedy}")
    run = run_folder.claim(folder)
    ranks = environment.size(config["trainer"])
    checkpoint = resume.adopt(run, config, config["resume"], config["resume_allow"], ranks)
    if resume.is_complete(run.path, config):
        print(f"already complete: {run.path}")
        return DONE
    bad = data_fingerprint.left_out(run, checkpoint is None)
    data_fingerprint.adopt_data(run, data.contents(splits), checkpoint is None, config["resume_allow"], bad)
    _train(config, run, data, checkpoint, folder, overrides)
    print(f"complete: {run.path}\ncompare runs: tensorboard --logdir {shlex.quote(str(run.path.parent))}")
    return DONE


def _train(
    config: Mapping[str, Any], run: Any, data: Any, checkpoint: str | None, folder: Path, overrides: Sequence[str]
) -> None:
    """Train as the process that holds the run's folder and writes its status."""
    from ip2p_lightning.runs.resume import split_of
    from ip2p_lightning.training.fit import fit
    from ip2p_lightning.training.resolve_auto import resolve_auto

    request = _stop_request()
    origin = {"command": run_folder.command(), "commit": run_folder.commit(), "overrides": list(overrides)}
    processes = environment.size(config["trainer"])
    run.write_status("running", **origin, split=split_of(config, processes), exit_code=None, reason=None)
    try:
        config = resolve_auto(config, run.path, data, processes, afresh=checkpoint is None)
        start = {"run": str(run.path), "checkpoint": checkpoint, "config": dict(config)}
        if processes > environment.world():
            step = launch.supervise(start, processes, request)
        else:
            if processes > 1:
                rendezvous.announce(folder, start)
            step = fit(config, run.path, data, checkpoint, request)
    except BaseException as error:
        _record(run, error)
        if environment.world() > 1:
            launch.print_stacks(run.path)
        raise
    run.write_status("complete", step=step, exit_code=DONE, reason=None)


def _follow(config: Mapping[str, Any], folder: Path) -> int:
    """Train as a rank of a run whose folder another process holds."""
    from ip2p_lightning.config import build
    from ip2p_lightning.config.train_config import TrainConfig
    from ip2p_lightning.config.validate import check
    from ip2p_lightning.training.fit import fit

    request = _stop_request()
    start = rendezvous.await_start(folder, config["timeout"])
    if start["run"] is None:
        return int(start["code"])
    config, path = start["config"], Path(start["run"])
    check(config, TrainConfig)
    warnings.filterwarnings("ignore", module=r"ip2p_lightning\.data\.sources\..*")  # the leader has given them
    try:
        data = build.build_data(config)
        data.setup("fit")
        step = fit(config, path, data, start["checkpoint"], request)
    except BaseException as error:
        known = user_error(error) or error
        if isinstance(known, UserError) and not environment.supervised():  # perhaps only this rank knows
            print(f"error: rank {environment.rank()}: {known}", file=sys.stderr)
        raise
    if environment.rank() == 0:
        run_folder.note(path, step=step)
    return DONE


def _stop_request() -> StopRequest:
    """Handles stop signals from now on; ranks wait until they can agree on one."""
    request = StopRequest()
    request.save_first = environment.place() != "single"
    request.listen()
    return request


def _record(run: Any, error: BaseException) -> None:
    """Write into ``status.json`` why the run ended."""
    code, reason = outcome(error)
    error = user_error(error) or error
    state = "preempted" if isinstance(error, PreemptedError | KeyboardInterrupt) else "failed"
    state = "pruned" if isinstance(error, PrunedError) else state
    with contextlib.suppress(StorageError):  # a full disk must not hide what ended the run
        run.write_status(state, reason=reason, exit_code=code)


def _summary(config: Mapping[str, Any], data: Any, lacking: str) -> str:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in data.shares.items())
    verdict = f"no error found, but not checked here: {lacking}" if lacking else "the config is good"
    return f"dry run: {verdict}; tasks: {shares}; {config['trainer']['max_steps']} steps; nothing was trained"
