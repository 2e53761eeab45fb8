"""Drills 1 to 6: kill -9 at random, between micro-steps, inside saves; exceptions; and the same command each time."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

from benchmarks.drills.storm import LONG, Storm, losses, recipe, samples, trains, undisturbed
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.folder import read_status
from tests.support.processes import digest, run

Outcome = dict[str, object]


def kill_storm(work: Path, seed: int, steps: int = 200, kills: int = 20) -> Outcome:
    """Drills 1 and 2: 20 kill -9 of a 200-step run, half of them aimed at a save; no sample lost or doubled."""
    words = recipe(work, steps)
    wanted, seconds = undisturbed(work / "whole", words)
    rng = random.Random(seed)
    storm = Storm(work / "storm", words, rng, {"TMPDIR": str(work / "tmp")})
    (work / "tmp").mkdir()
    places = sorted(rng.sample(range(steps - 20), kills))
    aimed = set(rng.sample(range(kills), kills // 2))
    for number, place in enumerate(places):
        at = place // 10 * 10
        if number in aimed:  # the file is about four times as large as the weights
            storm.die(f"kill@ckpt_write={rng.random() * 3.8:.3f}")
        else:
            process = storm.start()
            ready = lambda a=at, p=process: storm.newest() >= a and trains(p)  # noqa: E731
            storm.kill(process, ready, rng.random() * 10 * seconds / steps, "random")
        storm.check()
    code = storm.finish()
    lines = losses(storm.folder)
    return {
        "exit code at the end": code,
        "digest equal to the undisturbed run's": digest(storm.folder) == wanted,
        "folders beside the run's": len([p for p in work.iterdir() if "@" in p.name]),
        "files left in TMPDIR": len([p for p in (work / "tmp").rglob("*") if p.is_file()]),
        **storm.found,
        "steps redone": sum(len(v) - 1 for v in lines.values()),
        "steps missing from metrics.jsonl": steps - len(lines),
        "redone steps whose loss differed": sum(len(set(v)) > 1 for v in lines.values()),
        **_samples_told(storm.folder, work / "whole", 4 * steps),
        "seconds undisturbed": round(seconds),
    }


def _samples_told(folder: Path, whole: Path, micro_steps: int) -> Outcome:
    """Drill 2: epochs of 24 pairs (six photos in each of four tasks) in micro-batches of two."""
    (found, different), (wanted, _) = samples(folder), samples(whole)
    seen = [pair for _, line in sorted(found.items()) for pair in zip(line["tasks"], line["ids"], strict=True)]
    epochs = [Counter(seen[start : start + 24]) for start in range(0, len(seen) // 24 * 24, 24)]
    everyone = set(seen)
    return {
        "micro-steps missing from samples.jsonl": micro_steps - len(found),
        "micro-steps done again with other samples": different,
        "samples.jsonl, each micro-step once, equal to the undisturbed run's": found == wanted,
        "epochs": f"{len(epochs)} of {len(everyone)} pairs, and {len(seen) % 24} samples of the next",
        "pairs missing in an epoch": sum(len(everyone - epoch.keys()) for epoch in epochs),
        "pairs twice in an epoch": sum(count - 1 for epoch in epochs for count in epoch.values()),
    }


def workers_change(work: Path, seed: int) -> Outcome:
    """Drill 3: kill at step 77 of 100 with two workers, go on with none, one and four."""
    words = recipe(work, 100)
    wanted, _ = undisturbed(work / "whole", words)
    storm = Storm(work / "killed", words, random.Random(seed))
    found: Outcome = {"exit code of the kill": storm.start("fault=kill@step=77").wait(LONG)}
    for workers in (0, 1, 4):
        folder = shutil.copytree(storm.folder, work / f"workers{workers}")
        code = Storm(folder, words, storm.rng).start(f"loader.workers={workers}").wait(LONG)
        found[f"{workers} workers: exit code, digest equal"] = f"{code}, {digest(folder) == wanted}"
    return found


def inside_windows(work: Path, seed: int) -> Outcome:
    """Drill 4: SIGTERM and kill -9 at micro-steps 1, 2, 3 of a window of 4, in two windows each: 12 runs."""
    words = recipe(work, 8)
    wanted, _ = undisturbed(work / "whole", words)
    found: Counter[str] = Counter()
    for kind in ("term", "kill"):
        for place in (4 + 1, 4 + 2, 4 + 3, 16 + 1, 16 + 2, 16 + 3):
            storm = Storm(work / f"{kind}{place}", words, random.Random(seed))
            code = storm.start("save_every=3", f"fault={kind}@micro_step={place}").wait(LONG)
            found[f"{kind}: exit code {code}"] += 1
            found["exit code 0 after it"] += storm.start("save_every=3").wait(LONG) == 0
            found["digest equal to the undisturbed run's"] += digest(storm.folder) == wanted
    return dict(found)


PLACES = ("micro_step=13", "step=3", "val=1", "log=3")  # in the step, in a callback, in validation, in a logger


def exceptions(work: Path, seed: int) -> Outcome:
    """Drill 5: an exception in the training step, in a callback, in validation and in a logger."""
    words = [*recipe(work, 12), "val_every=4", "val_examples=1", "save_every=2", "loader.eval_size=64"]
    words = [word for word in words if word not in ("val_every=0", "save_every=10")]
    wanted, _ = undisturbed(work / "whole", words)
    found: Outcome = {}
    for place in PLACES:
        storm = Storm(work / place.partition("=")[0], words, random.Random(seed))
        code = storm.start(f"fault=raise@{place}").wait(LONG)
        status = read_status(storm.folder)
        damaged = sum(bool(checkpoint.damage(p)) for p in checkpoint.checkpoints(storm.folder))
        told = f"exit code {code}, {status['state']}, {status['reason']}, {damaged} checkpoints damaged"
        code = storm.finish()
        found[f"raise@{place}"] = f"{told}; then exit code {code}, digest equal: {digest(storm.folder) == wanted}"
    return found


def aimed_kills(work: Path, seed: int, layout: str, kills: int = 50) -> Outcome:
    """Drill 6: 50 kills aimed at the saves of a checkpoint of over 100 MB."""
    words = ["unet.widths=[80,160,240]", "loader.size=16", "loader.resize=null", "loader.batch_size=1", "val_every=0"]
    words += ["task=denoise", "trainer.max_steps=250", "save_every=1", "log_every=1"]
    wanted, _ = undisturbed(work / "whole", words)
    size = checkpoint.checkpoints(work / "whole")[0].stat().st_size
    place = work / "tmp" if layout == "same" else Path("/dev/shm") / f"drill-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    storm = Storm(work / "storm", words, random.Random(seed), {"TMPDIR": str(place)})
    for _ in range(kills):
        _one_aimed_kill(storm)
        storm.found["files left in TMPDIR"] += len(list(place.iterdir()))
    code = storm.finish()
    shutil.rmtree(place)
    return {
        "TMPDIR": "on the run's file system" if layout == "same" else "/dev/shm",
        "checkpoint, MB": round(size / 1e6),
        "exit code at the end": code,
        "digest equal to the undisturbed run's": digest(storm.folder) == wanted,
        **storm.found,
        "temporaries at the end": len(storm.writing()),
        "set aside as *.corrupt": len(list((storm.folder / checkpoint.FOLDER).glob("*.corrupt*"))),
    }


def _one_aimed_kill(storm: Storm) -> None:
    """Kill 0 to 0.6 s after a save began: its bytes, fsync, rename, sidecar, and the removal of the oldest."""
    process = storm.start()
    if not process.until(lambda: storm.writing(process.pid), LONG):
        raise RuntimeError(process.said()[-2000:])
    storm.orphans()
    kind = storm.rng.choice(["first save", "second save"])
    if kind == "second save":
        before = storm.newest()
        process.until(lambda: storm.newest() > before and storm.writing(process.pid), LONG)
    storm.kill(process, lambda: True, storm.rng.random() * storm.rng.choice([0.05, 0.6]), kind)
    storm.check()


def harmed(work: Path, seed: int) -> Outcome:
    """Drill 7: the newest checkpoint harmed in eleven ways."""
    from tests.support.harms import HARMS

    words = [*recipe(work, 12), "save_every=2", "keep=3"]
    wanted, _ = undisturbed(work / "whole", words)
    undisturbed(work / "other", [*words, "seed=1"])
    begun = Storm(work / "begun", words, random.Random(seed))
    begun.start("fault=kill@step=9").wait(LONG)
    found: Outcome = {}
    for number, (harm, act) in enumerate(HARMS.items()):
        folder = shutil.copytree(begun.folder, work / f"harm{number}")
        newest = checkpoint.checkpoints(folder)[0]
        act(newest, work / "other")
        code, said = run([*words, f"hydra.run.dir={folder}"], work / f"harm{number}.log", LONG)
        told = [line for line in said.splitlines() if line.startswith("warning: ") and newest.name in line]
        reason = told[0].partition(f"{newest}: ")[2].partition(";")[0] if told else "no warning"
        kept = len(list((folder / checkpoint.FOLDER).glob("*.corrupt")))
        equal = digest(folder) == wanted
        found[harm] = (
            f"exit code {code}, {len(told)} warning ({reason}), {kept} kept as *.corrupt, digest equal: {equal}"
        )
    for path in checkpoint.checkpoints(begun.folder):
        HARMS["one bit"](path, work)
    code, said = run([*words, f"hydra.run.dir={begun.folder}"], work / "none.log", LONG)
    found["every checkpoint harmed"] = f"exit code {code}"
    return found
