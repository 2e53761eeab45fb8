"""Drills 40 to 44: groups of ranks that are killed, hang, crowd one host, or get uneven shares."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from ip2p_lightning.runs.folder import read_status
from tests.support.drilling import LONG, Outcome, Victim, losses, survived, undisturbed
from tests.support.processes import Process, digest, run
from tests.support.ranks import processes_of, step, validations
from tests.support.sweeping import CPU, TINY, await_that

RANKS = [*TINY, *CPU, "val_every=0", "log_every=1"]


def rank_kills(work: Path, seed: int, rank: int, steps: int = 40, kills: int = 10) -> Outcome:
    """Drill 40: kill -9 of one rank of two at a random step, ten runs; the same command resumes each."""
    words = [*RANKS, f"trainer.max_steps={steps}", "save_every=5", "timeout=60"]
    wanted, rng, found, gone = undisturbed(work / "whole", words), random.Random(seed + rank), Counter[str](), []
    for number in range(kills):
        victim, at = Victim(work / f"run{number}", words), rng.randint(1, steps - 5)
        process = victim.start()
        process.until(lambda v=victim, k=at: max(losses(v.folder), default=0) >= k, LONG)
        (pid,) = [p.pid for p in processes_of(victim.folder) if p.environ().get("RANK") == str(rank)]
        os.kill(pid, signal.SIGKILL)
        killed = time.perf_counter()
        found[f"exit code {process.wait(LONG)} after the kill"] += 1
        await_that(lambda v=victim: not processes_of(v.folder))
        gone.append(round(time.perf_counter() - killed, 1))
        found["status names the rank"] += f"rank {rank} was killed" in str(read_status(victim.folder))
        found[f"then: {survived(victim, wanted, ())}"] += 1
    return {"kills": kills, **found, "seconds until all processes were gone": sorted(gone)}


def hang(work: Path, seed: int, rank: int, timeout: int = 20) -> Outcome:
    """Drill 41: one rank of two sleeps for ever in the middle of the run."""
    folder = work / f"rank{rank}"
    words = [*RANKS, "trainer.max_steps=6", "save_every=2", f"timeout={timeout}", f"fault=hang@step=3,rank={rank}"]
    code, said = run([*words, f"hydra.run.dir={folder}"], work / f"log{rank}", LONG)
    ended, last = time.time(), (folder / "metrics.jsonl").stat().st_mtime
    stacks = [folder / f"stacks-rank{r}.txt" for r in (0, 1)]
    return {
        "timeout, s": timeout, "exit code": code, "state": read_status(folder)["state"],
        "stacks in the log, of ranks": [r for r in (0, 1) if f"where rank {r} stood" in said],
        "the hanging rank's stack shows the hang": "in _hang" in stacks[rank].read_text(),
        "the other's shows what it waits for": "in all_reduce" in stacks[1 - rank].read_text(),
        "s from the last step to both stacks": round(max(p.stat().st_mtime for p in stacks) - last, 1),
        "s from the last step to the end": round(ended - last, 1), "processes left": len(processes_of(folder)),
    }  # fmt: skip


def crowded(work: Path, seed: int) -> Outcome:
    """Drill 42: groups started at once on one host, under SLURM job ids whose last four digits are the same."""
    words, ids = [*RANKS, "trainer.max_steps=4", "save_every=2", "timeout=300"], ("12340001", "22340001")
    jobs: dict[str, list[Process]] = {}
    for number in range(4):
        victim = Victim(work / f"group{number}", words, {"SLURM_JOB_ID": ids[number % 2]})
        jobs[victim.folder.name] = [victim.start()]
    jobs |= {f"srun{job}": step(work / f"srun{job}", job=job, words=words) for job in ids}
    codes = {name: [process.wait(LONG) for process in group] for name, group in jobs.items()}
    said = "".join(process.said() for group in jobs.values() for process in group).lower()
    return {
        "exit codes": codes, "states": {name: read_status(work / name)["state"] for name in jobs},
        "port errors in the logs": said.count("eaddrinuse") + said.count("address already in use"),
        "different digests": len({digest(work / name) for name in jobs}),
    }  # fmt: skip


def uneven(work: Path, seed: int) -> Outcome:
    """Drill 44: validation of 3, 9 and 15 examples over two ranks, and over one."""
    words = [*CPU, "loader.size=32", "loader.resize=null", "loader.eval_size=32", "task.weights={cartoon: 0}"]
    words += ["trainer.max_steps=2", "trainer.accumulate_grad_batches=1", "val_every=2", "val_examples=null"]
    rows: Outcome = {}
    for draws, size in ((1, 2), (3, 2), (5, 4)):
        more = [f"loader.batch_size={size}", f"loader.eval_draws={draws}", "~callbacks.image_grids"]
        undisturbed(work / f"draws{draws}", [*words, *more])
        two, one, count = validations(work / f"draws{draws}")
        apart = max(abs(two[key] - one[key]) for key in one)
        rows[f"{count} examples, batches of {size}"] = f"{len(one)} metrics differ by {apart} at most"
    return rows
