"""Drills 13 to 17: full disks, closed folders, rot, memory, handles."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.drills.stops import _own, _pairs
from benchmarks.drills.storm import LONG, Storm, losses, recipe, undisturbed
from ip2p_lightning.cli.inspect import verified
from ip2p_lightning.runs import checkpoint
from tests.support.disks import bit_flips, fill, small_disk
from tests.support.processes import Process, digest, run

Outcome = dict[str, object]
TINY = ["model=tiny", "task=denoise", "loader.size=32", "loader.resize=null", "loader.batch_size=2", "val_every=0"]
TINY += ["log_every=1"]


def full_disks(work: Path, seed: int) -> Outcome:
    """Drill 13: a real disk (tmpfs) that is full at checkpoint 3, under the logs, under the cache."""
    words = [*TINY, "save_every=2", "trainer.max_steps=12"]
    wanted, _ = undisturbed(work / "whole", words)
    found: Outcome = {}
    with small_disk(work / "disk", 90) as disk:
        filler = fill(disk, leave=60 << 20)  # two checkpoints of 22 MB
        storm = Storm(disk / "run", words, random.Random(seed))
        found["checkpoint 3"] = _refusal(storm, storm.start("keep=9"), work)
        filler.unlink()
        found["checkpoint 3, space freed"] = (
            f"exit code {storm.finish()}, digest equal: {digest(storm.folder) == wanted}"
        )
    words = [*TINY, "save_every=20", "trainer.max_steps=60"]
    wanted, _ = undisturbed(work / "whole60", words)
    with small_disk(work / "disk", 90) as disk:
        storm = Storm(disk / "run", words, random.Random(seed))
        process = storm.start()
        process.until(lambda: storm.newest() >= 20, LONG)
        filler = fill(disk)
        found["logs"] = _refusal(storm, process, work)
        filler.unlink()
        lost = f"digest equal: {{}}, steps missing from metrics.jsonl: {60 - len(losses(work / 'whole60'))}"
        found["logs, space freed"] = f"exit code {storm.finish()}, {lost.format(digest(storm.folder) == wanted)}"
    return found | _full_cache(work, seed)


def _refusal(storm: Storm, process: Process, work: Path) -> str:
    code = process.wait(LONG)
    lines = process.said().replace("\r", "\n").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    kept = checkpoint.checkpoints(storm.folder)
    intact = sum(not checkpoint.damage(path) for path in kept)
    trace = ", with a traceback" if any("Traceback" in line for line in lines) else ""
    return f"exit code {code}, `{errors[-1].replace(str(work), '')}`{trace}; {intact} of {len(kept)} checkpoints intact"


def _full_cache(work: Path, seed: int) -> Outcome:
    words = [*recipe(work, 12), *_own(_pairs(work / "pairs")), "cache=disk", "loader.crop=center"]
    undisturbed(work / "uncached", [*words, f"cache_dir={work}/cache"])
    with small_disk(work / "disk", 1) as disk:
        fill(disk, leave=8192)  # room for what describes the cache
        words.append(f"cache_dir={disk}/cache")
        code, said = run([*words, f"hydra.run.dir={work}/full"], work / "log", LONG)
        (disk / "filler").unlink()
        damaged = sum(bool(wrong) for _, wrong in verified(disk / "cache"))
    warned = next((line for line in said.splitlines() if line.startswith("warning: ")), "no warning")
    (one, other) = ([v[0] for _, v in sorted(losses(work / name).items())] for name in ("full", "uncached"))
    apart = max(abs(a - b) / b for a, b in zip(one, other, strict=True))
    told = f"exit code {code}, `{warned.replace(str(work), '')}`, {damaged} parts of the cache damaged"
    return {"cache": f"{told}; losses of {len(one)} steps differ from the roomy cache's by {apart:.0e} at most"}


def closed_places(work: Path, seed: int) -> Outcome:
    """Drill 14: six places that may not be written, by a process without root's rights over files."""
    found: Outcome = {}
    for place in ("the folder above", "run", "a file in the run's place", "checkpoints", "metrics.jsonl", "cache"):
        top = work / place.replace(" ", "-").replace("'", "")
        folder, cache = top / "runs" / "x", top / "cache"
        folder.parent.mkdir(parents=True)
        words = [*recipe(top, 4), *_own(_pairs(top / "pairs", 8)), "cache=disk", f"cache_dir={cache}"]
        closed = {"the folder above": folder.parent, "run": folder, "checkpoints": folder / "checkpoints"}
        if place.startswith("a file"):
            folder.write_text("")
        elif place == "metrics.jsonl":
            folder.mkdir()
            (folder / place).touch(mode=0o444)
        else:
            target = closed.get(place, cache)
            target.mkdir(parents=True, exist_ok=True)
            target.chmod(0o555)
        began = time.perf_counter()
        code, said = run([*words, f"hydra.run.dir={folder}"], top / "log", LONG, NOT_ROOT="1")
        seconds, error = time.perf_counter() - began, said.strip().splitlines()[-1].replace(str(top), "")
        steps = "after a step" if "step/s" in said else "before the first step"
        found[place] = f"exit code {code} {steps}, {seconds:.1f} s: `{error}`"
    return found


def rot(work: Path, seed: int, flips: int = 100) -> Outcome:
    """Drill 15: one flipped bit, 100 times in each kind of stored file; how often it is noticed."""
    words = [*recipe(work, 4), *_own(_pairs(work / "pairs", 24)), "cache=disk", f"cache_dir={work}/cache"]
    words += ["save_every=2", "val_every=2", "val_examples=1", "loader.eval_size=64", "sampler.steps=2"]
    undisturbed(work / "run", words)
    _quietly("ip2p_lightning.cli.export", [str(work / "run"), str(work / "export")])
    build = ["build", "task=derain", "source=folder", f"source.root={work}/pairs", f"out={work}/dataset"]
    _quietly("ip2p_lightning.cli.data", [*build, "short_side=64"])
    found: Outcome = {}
    kinds = {"run": ["checkpoints/*.ckpt", "checkpoints/*.sha256"]}
    kinds["export"] = ["unet/*.safetensors", "vae/*.safetensors", "text_encoder/*.safetensors", "model_index.json"]
    kinds["export"] += ["*/*config.json", "tokenizer/vocab.json", "weights.json", "README.md", "SHA256SUMS"]
    kinds["dataset"] = ["data/*.parquet", "report.jsonl", "README.md"]
    kinds["cache"] = ["*/shard-*", "*/index", "*/space.json", "sources"]
    for folder, patterns in kinds.items():
        for pattern in patterns:
            path = sorted((work / folder).glob(pattern))[-1]
            noticed = sum(any(wrong for _, wrong in verified(work / folder)) for _ in bit_flips(path, flips, seed))
            found[f"{folder}/{path.relative_to(work / folder)}"] = f"{noticed} of {flips} noticed"
        assert not any(wrong for _, wrong in verified(work / folder))
    return found


def _quietly(module: str, words: list[str]) -> None:
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", module, *words], check=True, capture_output=True)


def memory_of_a_save(work: Path, seed: int) -> Outcome:
    """Drill 16: resident memory while a checkpoint of 1 GB is saved, against just before."""
    words = [*TINY, "unet.widths=[256,512,736]", "loader.size=16", "loader.batch_size=1", "trainer.max_steps=3"]
    storm = Storm(work / "run", [*words, "save_every=1"], random.Random(seed))
    process = storm.start()
    saves: list[tuple[int, int]] = []

    def watch() -> None:
        before = 0
        while process.alive:
            now = _resident(process.pid)
            if storm.writing(process.pid):
                last = saves.pop() if saves and saves[-1][0] == before else (before, 0)
                saves.append((before, max(last[1], now)))
            else:
                before = now or before
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait(LONG)
    watcher.join()
    path = checkpoint.checkpoints(storm.folder)[0]
    weights = checkpoint.load(path)["state_dict"]
    return {
        "exit code": code,
        "checkpoint, MB": round(path.stat().st_size / 1e6),
        "largest tensor, MB": round(max(w.numel() * w.element_size() for w in weights.values()) / 1e6),
        "resident before a save, at most during it, MB": [f"{a // 1000} -> {b // 1000}" for a, b in saves],
        "grown by at most, MB": max(b - a for a, b in saves) // 1000,
    }


def _resident(pid: int) -> int:  # kB
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def handles(work: Path, seed: int, steps: int = 500) -> Outcome:
    """Drill 17: 500 checkpoints with keep=2: files and open handles on the way."""
    words = [*TINY, "unet.widths=[8,16,16]", "loader.size=16", f"trainer.max_steps={steps}", "save_every=1", "keep=2"]
    storm = Storm(work / "run", words, random.Random(seed))
    process = storm.start()
    seen: list[tuple[int, int, int]] = []

    def look() -> bool:
        step = storm.newest()
        if step and (not seen or step > seen[-1][0]):
            files = list((storm.folder / checkpoint.FOLDER).glob("step-*.ckpt"))
            seen.append((step, len(files), _open_files(process.pid)))
        return False

    process.until(look, LONG)
    code = process.wait(LONG)
    steady = [row for row in seen if row[0] > 5]
    return {
        "exit code": code,
        "checkpoints seen on the way": len(seen),
        "checkpoint files at once, least and most": [min(r[1] for r in steady), max(r[1] for r in steady)],
        "open handles, least and most": [min(r[2] for r in steady), max(r[2] for r in steady)],
        "open handles, mean of the first and last fifty": [
            round(float(np.mean([r[2] for r in part])), 2) for part in (steady[:50], steady[-50:])
        ],
        "files in the folder at the end": sorted(p.name for p in (storm.folder / checkpoint.FOLDER).iterdir()),
    }


def _open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    except OSError:
        return 0
