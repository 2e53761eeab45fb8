"""The full-size drills of groups of ranks and of sweeps: kill, hang and crowd real runs, and look at what is left.

usage: python -m benchmarks.group_drills [40 41 42 43 44 47 48 50 51 optuna ...] [--work DIR] [--seed N]

Each adds its measured outcome to ``benchmarks/group_drills_202611.md``. 40 is two drills, 40-rank0 and 40-rank1.
48 needs a SLURM that answers.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks import sweep_drills
from benchmarks.drills import LONG, Storm, losses, undisturbed
from ip2p_lightning.runs.folder import read_status
from tests.support.processes import Process, digest
from tests.support.processes import run as run_process
from tests.support.sweeping import CPU, SMALL, TINY, await_that

TABLE = Path(__file__).with_name("group_drills_202611.md")
RANKS = [*TINY, *CPU, "val_every=0", "log_every=1"]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every living process whose command line names `folder`: torchrun, workers."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(folder) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def worker(folder: Path, rank: int) -> int:
    """The process id of one rank."""
    for process in processes_of(folder):
        if "torch.distributed.run" not in process.cmdline() and process.environ().get("RANK") == str(rank):
            return process.pid
    raise RuntimeError(f"rank {rank} of {folder} does not run")


def rank_kills(work: Path, seed: int, rank: int, steps: int = 40, kills: int = 10) -> dict[str, object]:
    """Drill 40: kill -9 of one rank of two at a random step, ten runs; the same command resumes each."""
    words = [*RANKS, f"trainer.max_steps={steps}", "save_every=5", "timeout=60"]
    wanted, _ = undisturbed(work / "whole", words)
    rng, found, gone = random.Random(seed + rank), Counter[str](), []
    for number in range(kills):
        storm = Storm(work / f"run{number}", words, rng)
        step = rng.randint(1, steps - 5)
        process = storm.start()
        process.until(lambda s=storm, k=step: max(losses_so_far(s.folder), default=0) >= k, LONG)
        os.kill(worker(storm.folder, rank), signal.SIGKILL)
        killed = time.perf_counter()
        found[f"exit code {process.wait(LONG)} after the kill"] += 1
        await_that(lambda s=storm: not processes_of(s.folder))
        gone.append(time.perf_counter() - killed)
        found["status says failed, names the rank"] += f"rank {rank} was killed" in str(read_status(storm.folder))
        found[f"exit code {storm.finish()} of the same command"] += 1
        found["digest equal to the undisturbed run's"] += digest(storm.folder) == wanted
    return {"kills": kills, **found, "seconds until all processes were gone": spread(gone)}


def losses_so_far(folder: Path) -> dict[int, list[float]]:
    """Losses by step, {} before the first."""
    return losses(folder) if (folder / "metrics.jsonl").exists() else {}


def spread(values: list[float]) -> str:
    """Least, median and most."""
    ordered = sorted(values)
    return f"{ordered[0]:.1f} / {ordered[len(ordered) // 2]:.1f} / {ordered[-1]:.1f} (least, median, most)"


def hangs(work: Path, seed: int, timeout: int = 20) -> dict[str, object]:
    """Drill 41: one rank of two sleeps for ever in the middle of the run."""
    rows: dict[str, object] = {"timeout, s": timeout}
    for rank in (0, 1):
        folder, words = work / f"rank{rank}", [*RANKS, "trainer.max_steps=6", "save_every=2", f"timeout={timeout}"]
        began = time.time()
        code, said = run_process(
            [*words, f"fault=hang@step=3,rank={rank}", f"hydra.run.dir={folder}"], work / f"log{rank}", LONG
        )
        ended, last = time.time(), (folder / "metrics.jsonl").stat().st_mtime
        stacks = [folder / f"stacks-rank{r}.txt" for r in (0, 1)]
        rows[f"rank {rank} hangs"] = {
            "exit code": code,
            "state": read_status(folder)["state"],
            "stacks in the log, of ranks": [r for r in (0, 1) if f"where rank {r} stood" in said],
            "the hanging rank's stack shows the hang": "in _hang" in stacks[rank].read_text(),
            "the other's shows what it waits for": "in all_reduce" in stacks[1 - rank].read_text(),
            "s from the last step to both stacks": round(max(p.stat().st_mtime for p in stacks) - last, 1),
            "s from the last step to the end": round(ended - last, 1),
            "processes left": len(processes_of(folder)),
            "s in all": round(ended - began),
        }
    return rows


def crowded(work: Path, seed: int) -> dict[str, object]:
    """Drill 42: groups started at once on one host, under SLURM job ids whose last four digits are the same."""
    words = [*RANKS, "trainer.max_steps=4", "save_every=2", "timeout=300"]
    jobs: dict[str, list[Process]] = {}
    for number in range(4):
        name, ids = f"group{number}", {"SLURM_JOB_ID": "12340001" if number % 2 else "22340001"}
        jobs[name] = [Process([*words, f"hydra.run.dir={work}/{name}"], work / f"{name}.log", ids)]
    for job in ("12340001", "22340001"):  # the tasks of two srun steps
        name = f"srun{job}"
        for rank in (0, 1):
            log = work / f"{name}-{rank}.log"
            jobs.setdefault(name, []).append(
                Process([*words, f"hydra.run.dir={work}/{name}"], log, task(rank, SLURM_JOB_ID=job))
            )
    codes = {name: [process.wait(LONG) for process in group] for name, group in jobs.items()}
    said = "".join(process.said() for group in jobs.values() for process in group).lower()
    return {
        "exit codes": codes,
        "states": {name: read_status(work / name)["state"] for name in jobs},
        "port errors in the logs": said.count("eaddrinuse") + said.count("address already in use"),
        "different digests": len({digest(work / name) for name in jobs}),
    }


def task(rank: int, **more: str) -> dict[str, str]:
    """What srun sets for one of two tasks on this node."""
    place = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"}
    return {**place, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), **more}


def same_second(work: Path, seed: int, count: int = 20, steps: int = 40) -> dict[str, object]:
    """Drill 43: the same command twenty times in one second."""
    words = [*SMALL, f"trainer.max_steps={steps}", "save_every=20", "log_every=1", f"hydra.run.dir={work / 'run'}"]
    Process(["dry_run=true"], work.parent / f"{work.name}-warm").wait(
        LONG
    )  # so that all twenty start from warm imports
    began = time.perf_counter()
    processes = [Process(words, work.parent / f"{work.name}-log{number}") for number in range(count)]
    seconds = time.perf_counter() - began
    codes = Counter(process.wait(LONG) for process in processes)
    folders = sorted(work.iterdir())
    return {
        "seconds in which they were started": round(seconds, 2),
        "exit codes": dict(codes),
        "folders": len(folders),
        "complete": sum(read_status(folder)["state"] == "complete" for folder in folders),
        "written by one process each": len({read_status(folder)["pid"] for folder in folders}),
        "folders with one event file and each step once": sum(
            len(list(f.glob("events*"))) == 1 and [len(v) for v in losses(f).values()] == [1] * steps for f in folders
        ),
        "different digests": len({digest(folder) for folder in folders}),
    }


def uneven(work: Path, seed: int) -> dict[str, object]:
    """Drill 44: validation of 3, 9 and 15 examples over two ranks, and over one."""
    rows: dict[str, object] = {}
    for draws, size in ((1, 2), (3, 2), (5, 4)):
        folder = work / f"draws{draws}"
        words = [*CPU, "loader.size=32", "loader.resize=null", "loader.eval_size=32", f"loader.batch_size={size}"]
        words += ["trainer.max_steps=2", "trainer.accumulate_grad_batches=1", "val_every=2", "val_examples=null"]
        words += ["task.weights={cartoon: 0}", f"loader.eval_draws={draws}", "callbacks.image_grids.examples=0"]
        code, said = run_process([*words, f"hydra.run.dir={folder}"], work / "log", LONG)
        if code:
            raise RuntimeError(said)
        two, (one, count) = validation(folder), alone(folder)
        rows[f"{count} examples, batches of {size}"] = {
            "metrics": len(one),
            "largest difference": max(abs(two[key] - one[key]) for key in one),
        }
    return rows


def validation(folder: Path) -> dict[str, float]:
    """The last validation that a run logged."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "val/psnr" in line][-1]
    return {key: value for key, value in last.items() if key.startswith("val/")}


def alone(folder: Path) -> tuple[dict[str, float], int]:
    """A run's validation by this process alone, and the number of its examples."""
    from lightning.pytorch import Trainer

    from ip2p_lightning.config import build
    from ip2p_lightning.runs import open as run_opening
    from ip2p_lightning.training.callbacks.validation import ValidationScores

    opened = run_opening.open_run(folder)
    scores, data = ValidationScores(), build.build_data(opened.config)
    data.val_examples = opened.config["val_examples"]
    off = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing", "inference_mode")
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=[scores], **dict.fromkeys(off, False))
    trainer.validate(opened.module, datamodule=data, verbose=False)
    return scores.latest, len(data.val_dataloader().keys.keys)


DRILLS: dict[str, Callable[[Path, int], dict[str, object]]] = {
    "40-rank0": functools.partial(rank_kills, rank=0),
    "40-rank1": functools.partial(rank_kills, rank=1),
    "41": hangs,
    "42": crowded,
    "43": same_second,
    "44": uneven,
    "47": sweep_drills.troubled,
    "48": functools.partial(sweep_drills.troubled, launcher=sweep_drills.SLURM),
    "50": sweep_drills.dead_controller,
    "51": sweep_drills.many,
    "optuna": sweep_drills.study,
}


def record(number: str, seed: int, outcome: dict[str, object], seconds: float) -> None:
    """Append a drill's outcome to the table."""
    from ip2p_lightning.runs.folder import commit

    drill = DRILLS[number]
    about = (getattr(drill, "func", drill).__doc__ or "").splitlines()[0]
    where = f"{time.strftime('%Y-%m-%d')}, commit {commit()}, {platform.machine()}, {seconds / 60:.0f} min"
    lines = [f"\n## {number}: {about}\n", f"`python -m benchmarks.group_drills {number} --seed {seed}`, {where}.\n"]
    lines += ["| what | measured |", "|---|---|", *(f"| {a} | {b} |" for a, b in _flat(outcome)), ""]
    with TABLE.open("a") as file:
        file.write("\n".join(lines))


def _flat(outcome: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in outcome.items():
        rows += _flat(value, f"{prefix}{name}: ") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return rows


def main() -> None:
    """Run the drills that are named, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drills", nargs="*", metavar="DRILL", help=f"one of {', '.join(DRILLS)}")
    parser.add_argument("--work", type=Path, default=Path("/tmp/group-drills"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for number in args.drills or DRILLS:
        work = args.work / f"{number}-{args.seed}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        started = time.perf_counter()
        outcome = DRILLS[number](work, args.seed)
        record(number, args.seed, outcome, time.perf_counter() - started)
        print(number, json.dumps(outcome, indent=2, default=str), flush=True)


if __name__ == "__main__":
    main()
