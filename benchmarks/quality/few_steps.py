"""Quality against evaluations of the net: the runs of ``experiments/few_steps.yaml``, scored with many samplers.

``python -m benchmarks.quality.few_steps runs/few_steps``: what is scored already stays; a table of it, and of the run
in ``runs/few_steps_long`` if there is one, goes between the markers of ``experiments/few_steps.md``.
"""

import csv
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.support.clock import in_turn
from benchmarks.support.command import options
from ip2p_lightning.cli.evaluate import main as evaluate
from ip2p_lightning.cli.evaluate import parser
from ip2p_lightning.cli.parser import overridden
from ip2p_lightning.editing.editor import BatchEditor, ready
from ip2p_lightning.runs.trained_run import open_run

PAGE = Path(__file__).parents[2] / "experiments" / "few_steps.md"
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
    """Score what is not scored; then time, and write the table."""
    folder = options(__doc__, runs=Path).runs
    torch.set_num_threads(1)
    for sampling in SAMPLINGS:
        for run in _runs(folder, sampling.path):
            missing = not (run / sampling.folder / "scores.csv").exists()
            if missing and evaluate([str(run), "--prompts", "heldout", *sampling.words]):
                return 1
    table, page = _table(folder), PAGE.read_text()
    PAGE.write_text(f"{page.partition(BEGIN)[0]}{BEGIN}\n\n{table}\n\n{END}{page.partition(END)[2]}")
    print(table)
    return 0


def _runs(folder: Path, path: str) -> list[Path]:
    return sorted(p for p in folder.parent.glob(folder.name + RUNS[path]) if (p / "checkpoints").is_dir())


def _scores(runs: list[Path], folder: str, method: str) -> dict[str, tuple[float, float]]:
    """PSNR and SSIM per task, means over the runs."""
    rows = [row for run in runs for row in csv.DictReader((run / folder / "scores.csv").open())]
    rows = [row for row in rows if row["method"] == method]
    tasks = dict.fromkeys(row["task"] for row in rows)
    means = {t: [[float(r[key]) for r in rows if r["task"] == t] for key in ("psnr", "ssim")] for t in tasks}
    return {task: (statistics.fmean(psnr), statistics.fmean(ssim)) for task, (psnr, ssim) in means.items()}


def _table(folder: Path) -> str:
    scored = [sampling for sampling in SAMPLINGS if _runs(folder, sampling.path)]
    seconds = _seconds(folder, scored)
    found = _scores(_runs(folder, scored[0].path), scored[0].folder, "identity")
    lines = [["path", "sampler", "steps", "evaluations", *found, "mean", "SSIM", "CPU s an image"]]
    lines += [[":--", ":--", *["--:"] * (len(lines[0]) - 2)]]
    lines += [[*_row(["–", "the original as it is", "0", "0"], found), "–"]]
    for sampling in scored:
        sampler, steps = _described(sampling)
        names = [sampling.path, sampler, str(steps), str(steps * sampling.branches)]
        scores = _scores(_runs(folder, sampling.path), sampling.folder, "model")
        lines.append([*_row(names, scores), f"{seconds[sampling]:.2f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _described(sampling: Sampling) -> tuple[str, int]:
    given = dict(zip(sampling.words[::2], sampling.words[1::2], strict=True))
    if sampling.path == "bridge":
        return "along the bridge", int(given.get("--steps", 1))
    return given.get("--scheduler", "ddim, guided 7.5 and 1.5"), int(given.get("--steps", 20))


def _row(names: list[str], found: dict[str, tuple[float, float]]) -> list[str]:
    psnr, ssim = zip(*found.values(), strict=True)
    return [*names, *(f"{x:.2f}" for x in (*psnr, statistics.fmean(psnr))), f"{statistics.fmean(ssim):.3f}"]


def _seconds(folder: Path, samplings: list[Sampling], rounds: int = 2) -> dict[Sampling, float]:
    """CPU seconds an image of 256 px, four at once, the best of some interleaved rounds."""
    x = torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    modules = {path: ready(open_run(_runs(folder, path)[0]).module, "cpu") for path in {s.path for s in samplings}}

    def edit(sampling: Sampling) -> Callable[[], Any]:
        module: Any = modules[sampling.path]
        editor = BatchEditor(module, overridden(module, parser().parse_args(["run", *sampling.words])))
        return lambda: editor.edit(x, ["remove the noise"] * IMAGES, list(range(IMAGES)))

    found = in_turn({sampling: edit(sampling) for sampling in samplings}, rounds)
    return {sampling: min(times) / IMAGES for sampling, times in found.items()}


if __name__ == "__main__":
    sys.exit(main())
