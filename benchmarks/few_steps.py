"""Quality against evaluations of the net: the runs of ``experiments/few_steps.yaml``, scored with many samplers.

``python -m benchmarks.few_steps runs/few_steps [--seconds 500]``: what is scored already stays; a table of it, and of
the run in ``runs/few_steps_long`` if there is one, goes between the markers of ``experiments/few_steps.md``.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ip2p_lightning.cli.evaluate import main as evaluate
from ip2p_lightning.runs.open import open_run

PAGE = Path(__file__).parents[1] / "experiments" / "few_steps.md"
BEGIN, END = "<!-- steps:begin -->", "<!-- steps:end -->"
SIDE, IMAGES = 256, 4  # of the timed edits


LONG = "eps, 15,000 steps"
RUNS = {"bridge": "/path-bridge+seed-*", "eps": "/path-eps+seed-*", LONG: "_long"}  # after the name of the folder


class Sampling(NamedTuple):
    """A row of the table: which path, the words for ``ip2p-evaluate``, branches of guidance."""

    path: str
    words: tuple[str, ...]
    branches: int = 1

    @property
    def folder(self) -> str:
        """Where in a run its scores lie."""
        pairs = zip(self.words[::2], self.words[1::2], strict=True)
        return "+".join(f"{option.removeprefix('--')}-{value}" for option, value in pairs)


PLAIN = ("--text-scale", "1.0", "--image-scale", "1.0")  # no guidance: one branch
FEW = [("dpm++", "4"), ("dpm++", "8"), ("ddim", "20"), ("unipc", "8"), ("ddim", "4")]


def _from_noise(path: str, solvers: list[tuple[str, str]]) -> list[Sampling]:
    return [Sampling(path, (*PLAIN, "--steps", steps, "--scheduler", name)) for name, steps in solvers]


SAMPLINGS = [
    Sampling("bridge", ()),  # as the run has it: one step
    *(Sampling("bridge", ("--steps", steps)) for steps in ("2", "4")),
    *_from_noise("eps", FEW[:3]),
    Sampling("eps", (), 3),  # as the run has it: ddim in 20 steps, guided as InstructPix2Pix is
    *_from_noise("eps", FEW[3:]),
    *_from_noise(LONG, FEW[:3]),
    Sampling(LONG, (), 3),
]


def main() -> int:
    """Score what is not scored, as long as the time allows; then time, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no evaluation after so many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    for sampling in SAMPLINGS:
        for run in _runs(options.runs, sampling.path):
            if not (run / sampling.folder / "scores.csv").exists():
                if time.monotonic() - began > options.seconds:
                    print("more to do: the same command continues")
                    _write(_table(options.runs))
                    return 1
                if evaluate([str(run), "--prompts", "heldout", *sampling.words]):
                    return 1
    _write(_table(options.runs))
    return 0


def _runs(folder: Path, path: str) -> list[Path]:
    return sorted(p for p in folder.parent.glob(folder.name + RUNS[path]) if (p / "checkpoints").is_dir())


def _scores(runs: list[Path], folder: str, method: str) -> dict[str, tuple[float, float]]:
    """PSNR and SSIM per task, means over the runs."""
    rows = [
        row for run in runs for row in csv.DictReader((run / folder / "scores.csv").open()) if row["method"] == method
    ]
    tasks = dict.fromkeys(row["task"] for row in rows)
    means = {t: [[float(r[key]) for r in rows if r["task"] == t] for key in ("psnr", "ssim")] for t in tasks}
    return {task: (statistics.fmean(psnr), statistics.fmean(ssim)) for task, (psnr, ssim) in means.items()}


def _table(folder: Path) -> str:
    scored = [s for s in SAMPLINGS if _scored(folder, s)]
    seconds = _seconds(folder, scored)
    lines: list[list[str]] = []
    for sampling in scored:
        runs = _runs(folder, sampling.path)
        if not lines:
            found = _scores(runs, sampling.folder, "identity")
            lines += [["path", "sampler", "steps", "evaluations", *found, "mean", "SSIM", "CPU s an image"]]
            lines += [_row(["–", "the original as it is", "0", "0"], found, None)]
        sampler, steps = _described(sampling)
        names = [sampling.path, sampler, str(steps), str(steps * sampling.branches)]
        lines.append(_row(names, _scores(runs, sampling.folder, "model"), seconds[sampling]))
    lines.insert(1, [":--", ":--", *["--:"] * (len(lines[0]) - 2)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scored(folder: Path, sampling: Sampling) -> bool:
    runs = _runs(folder, sampling.path)
    return bool(runs) and all((run / sampling.folder / "scores.csv").exists() for run in runs)


def _described(sampling: Sampling) -> tuple[str, int]:
    given = dict(zip(sampling.words[::2], sampling.words[1::2], strict=True))
    if sampling.path == "bridge":
        return "along the bridge", int(given.get("--steps", 1))
    guided = "" if given else ", guided 7.5 and 1.5"
    return given.get("--scheduler", "ddim") + guided, int(given.get("--steps", 20))


def _row(names: list[str], found: dict[str, tuple[float, float]], seconds: float | None) -> list[str]:
    psnr, ssim = ([pair[i] for pair in found.values()] for i in (0, 1))
    means = [f"{statistics.fmean(psnr):.2f}", f"{statistics.fmean(ssim):.3f}"]
    return [*names, *(f"{x:.2f}" for x in psnr), *means, "–" if seconds is None else f"{seconds:.2f}"]


def _seconds(folder: Path, samplings: list[Sampling], rounds: int = 2) -> dict[Sampling, float]:
    """CPU seconds an image of 256 px, four at once, the best of some interleaved rounds."""
    from ip2p_lightning.cli.evaluate import parser
    from ip2p_lightning.cli.parser import overridden
    from ip2p_lightning.editing.editor import BatchEditor, ready

    paths = dict.fromkeys(sampling.path for sampling in samplings)
    modules = {path: ready(open_run(_runs(folder, path)[0]).module, "cpu") for path in paths}
    x = torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    best: dict[Sampling, float] = {}
    for _ in range(rounds):
        for sampling in samplings:
            module: Any = modules[sampling.path]
            editor = BatchEditor(module, overridden(module.sampler, parser().parse_args(["run", *sampling.words])))
            began = time.process_time()
            editor.edit(x, ["remove the noise"] * IMAGES, list(range(IMAGES)))
            spent = (time.process_time() - began) / IMAGES
            best[sampling] = min(best.get(sampling, spent), spent)
    return best


def _write(table: str) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
    print(table)


if __name__ == "__main__":
    sys.exit(main())
