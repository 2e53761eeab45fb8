"""Drills 8 and 10 to 12: asked to stop, asked to go on with something else, finished, moved."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.drills.storm import LONG, Storm, losses, recipe, trains, undisturbed
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_config, read_status
from tests.support.processes import digest, run

Outcome = dict[str, object]


def preemptions(work: Path, seed: int, steps: int = 60, signals: int = 20) -> Outcome:
    """Drill 8: SIGTERM at 20 random moments; a second one inside the save; Ctrl-C twice."""
    words = recipe(work, steps)
    wanted, seconds = undisturbed(work / "whole", words)
    storm, rng, slowest = Storm(work / "stopped", words, random.Random(seed)), random.Random(seed), 0.0
    for _ in range(signals):
        process = storm.start()
        process.until(lambda p=process: trains(p), LONG)
        time.sleep(rng.random() * seconds / steps * 3)
        asked = time.perf_counter()
        process.send(signal.SIGTERM)
        code = process.wait(LONG)
        slowest = max(slowest, time.perf_counter() - asked)
        storm.found[f"exit {code}, {read_status(storm.folder)['state']}"] += 1
    code = storm.finish()
    lines = losses(storm.folder)
    return {
        **storm.found,
        "exit code at the end": code,
        "digest equal to the undisturbed run's": digest(storm.folder) == wanted,
        "steps redone": sum(len(v) - 1 for v in lines.values()),
        "slowest exit after the signal, s": round(slowest, 1),
        **_twice(work, words, wanted, rng),
    }


def _twice(work: Path, words: list[str], wanted: str, rng: random.Random) -> Outcome:
    again = Storm(work / "again", words, rng)
    codes = [again.start("fault=term@micro_step=22;term@ckpt_write=0.5").wait(LONG)]
    intact = not checkpoint.damage(checkpoint.checkpoints(again.folder)[0])
    codes.append(again.finish())
    found: Outcome = {"SIGTERM and again inside the save: exit codes": codes, "its checkpoint intact": intact}
    found["its digest equal in the end"] = digest(again.folder) == wanted
    slow = Storm(work / "slow", [*words, "trainer.accumulate_grad_batches=1000"], rng)
    process = slow.start()
    process.until(lambda: trains(process), LONG)
    process.send(signal.SIGINT)
    process.until(lambda: "Ctrl-C again" in process.said(), LONG)
    asked = time.perf_counter()
    process.send(signal.SIGINT)
    code = process.wait(LONG)
    return found | {"Ctrl-C twice: exit code": code, "Ctrl-C twice: s": round(time.perf_counter() - asked, 1)}


CHANGES = ["optimizer.lr=2e-4", "loader.batch_size=1", "trainer.accumulate_grad_batches=2", "loader.size=32"]
CHANGES += ["task.name=other", "seed=1"]


def changed(work: Path, seed: int) -> Outcome:
    """Drill 10: go on with another lr, batch, accumulation, size, task, seed, dataset byte, split."""
    words = [*recipe(work, 6), *_own(_pairs(work / "pairs")), "save_every=2"]
    storm = Storm(work / "run", words, random.Random(seed))
    storm.start("fault=kill@step=5").wait(LONG)
    found: Outcome = {}

    def attempt(name: str, *more: str) -> None:
        code, said = run([*words, *more, f"hydra.run.dir={storm.folder}"], work / "log", LONG)
        line = next((x for x in said.splitlines() if x.startswith("error: ")), "no error").replace(str(work), "")
        found[name] = f"exit code {code}: {line.removeprefix('error: ')[:160]}"

    for word in CHANGES:
        attempt(word, word)
    picture = work / "pairs/target/3.png"
    intact = picture.read_bytes()
    picture.write_bytes(intact + b"\0")
    attempt("one byte of one picture")
    picture.write_bytes(intact)
    attempt("split", "data.val=0.4")
    code = storm.start("optimizer.lr=2e-4", "resume_allow=[optimizer.lr]").wait(LONG)
    rate = read_config(storm.folder)["optimizer"]["lr"]
    return found | {"resume_allow=[optimizer.lr]": f"exit code {code}, recorded lr {rate}"}


def _own(root: Path) -> list[str]:
    words = ["data=folder", f"data.root={root}", "task=own", "task.name=sepia", "data.val=0.2"]
    return [*words, "task.prompts.prompts=[make it sepia]"]


def _pairs(root: Path, count: int = 16) -> Path:
    rng = np.random.default_rng(0)
    for path in (root / side / f"{i}.png" for i in range(count) for side in ("input", "target")):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (72, 72, 3), dtype=np.uint8)).save(path)
    return root


def finished(work: Path, seed: int) -> Outcome:
    """Drill 11: the command of a finished run, again."""
    words = recipe(work, 6)
    undisturbed(work / "whole", words)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (work / "whole").rglob("*")}
    began = time.perf_counter()
    code, said = run([*words, f"hydra.run.dir={work}/whole"], work / "log", LONG)
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (work / "whole").rglob("*")}
    return {
        "exit code": code,
        "it says": said.strip().replace(str(work), ""),
        "nothing touched": before == after,
        "seconds": round(time.perf_counter() - began, 1),
    }


def moved(work: Path, seed: int) -> Outcome:
    """Drill 12: killed, moved to another folder, continued."""
    words = recipe(work, 20)
    wanted, _ = undisturbed(work / "whole", words)
    storm = Storm(work / "here", words, random.Random(seed))
    storm.start("fault=kill@step=13").wait(LONG)
    there = work / "else" / "where"
    there.parent.mkdir()
    shutil.move(storm.folder, there)
    code = Storm(there, words, storm.rng).finish()
    named = [p.name for p in there.iterdir() if p.is_file() and str(storm.folder) in p.read_text(errors="replace")]
    status = json.loads((there / "status.json").read_text())
    return {
        "exit code": code,
        "digest equal": digest(there) == wanted,
        "state": status["state"],
        "files that name the old place": named,
    }
