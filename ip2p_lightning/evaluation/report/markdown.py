"""The report as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.evaluation.report.arms import Arm, Spread, sections, tasks
from ip2p_lightning.evaluation.report.runs import RunSummary

NONE = "–"
SPLITS = {"test": "held-out photos (test)", "val": "validation photos (val)", "train": "training photos (train)"}
PROMPTS = {"heldout": "held-out instructions", "seen": "instructions of the training pool"}
Section = tuple[str, str]


def as_markdown(cells: Sequence[RunSummary], arms: Sequence[Arm], shared: Mapping[str, Any], plot: str | None) -> str:
    """Everything the runs tell, most important first; the same runs give the same text.

    Args:
        cells, arms, shared: from `collect` and `group`.
        plot: file name of the picture, where there is one.
    """
    done = sum(cell.state == "complete" for cell in cells)
    words = f"{done} of {len(cells)} runs complete"
    if shared:
        words += "; all with " + " ".join(f"`{key}={value}`" for key, value in shared.items())
    parts = [words + "."]
    found = sections(arms)
    for number, section in enumerate(found):
        parts += _section(arms, section)
        if number == 0 and plot:
            parts.append(f"![PSNR of each arm per task, and gain against cost]({plot})")
    if not found:
        parts.append("No scores yet: none of the complete runs was validated, or evaluated by ip2p-evaluate.")
    parts += [*_cost(arms), *_failed(cells), *_runs(cells)]
    return "\n\n".join(parts) + "\n"


def _section(arms: Sequence[Arm], section: Section) -> list[str]:
    split, prompts = section
    columns = tasks(arms, section)
    where = f"{SPLITS.get(split, split)}, {PROMPTS.get(prompts, prompts)}"
    counts = {s.n for a in arms for c in a.cells for s in c.scores if (s.split, s.prompts) == section and s.n}
    images = f"; {' or '.join(str(n) for n in sorted(counts))} images a task and run" if counts else ""
    return [
        f"### PSNR on {where}",
        f"In dB, mean over the runs of an arm and (lowest–highest){images}. *identity* is the original as it is, "
        "*gain* the model minus that, run by run.",
        _table(["arm", "seeds", *columns, "mean"], _psnr_rows(arms, section, columns)),
        f"### SSIM on {where}",
        _table(["arm", "seeds", *columns, "mean"], _ssim_rows(arms, section, columns)),
    ]


def _psnr_rows(arms: Sequence[Arm], section: Section, columns: Sequence[str]) -> list[list[str]]:
    present = [arm for arm in arms if arm.values(section, "model", None)]
    own, best = _own_identity(present, section, columns), _best(present, section)
    rows = [] if own else [_identity_row(present, section, columns, "psnr")]
    for arm in present:
        if own:
            rows.append(_row(f"{arm.label}: identity", arm.seeds(section), arm, section, columns, "identity"))
        rows.append(_row(f"**{arm.label}**", arm.seeds(section), arm, section, columns, "model", best=best))
        gains = [Spread.of(arm.gains(section, task).values()) for task in (*columns, None)]
        rows.append(["&emsp;gain", "", *(NONE if g is None else g.text("+.2f") for g in gains)])
        if arm.values(section, "wrong_instruction", None):
            rows.append(_row("&emsp;wrong instruction", "", arm, section, columns, "wrong_instruction"))
    return rows


def _ssim_rows(arms: Sequence[Arm], section: Section, columns: Sequence[str]) -> list[list[str]]:
    present = [arm for arm in arms if arm.values(section, "model", None)]
    rows = [_identity_row(present, section, columns, "ssim")]
    return rows + [
        _row(arm.label, arm.seeds(section), arm, section, columns, "model", "ssim", ".3f") for arm in present
    ]


def _row(
    label: str,
    seeds: str,
    arm: Arm,
    section: Section,
    columns: Sequence[str],
    method: str,
    score: str = "psnr",
    form: str = ".2f",
    best: Callable[[str | None], float] | None = None,
) -> list[str]:
    texts = []
    for task in (*columns, None):
        spread = Spread.of(arm.values(section, method, task, score).values())
        text = NONE if spread is None else spread.text(form)
        texts.append(f"**{text}**" if spread and best and spread.mean >= best(task) else text)
    return [label, seeds, *texts]


def _best(arms: Sequence[Arm], section: Section) -> Callable[[str | None], float] | None:
    """The highest mean of a task over the arms; None where there is nothing to compare."""
    if len(arms) < 2:
        return None
    return lambda task: max(s.mean for a in arms if (s := Spread.of(a.values(section, "model", task).values())))


def _own_identity(arms: Sequence[Arm], section: Section, columns: Sequence[str]) -> bool:
    """Whether the arms have different data: the identity edit then scores differently in each."""
    for task in columns:
        means = [s.mean for arm in arms if (s := Spread.of(arm.values(section, "identity", task).values()))]
        if means and max(means) - min(means) > 0.005:
            return True
    return False


def _identity_row(arms: Sequence[Arm], section: Section, columns: Sequence[str], score: str) -> list[str]:
    whole = Arm("identity", tuple(cell for arm in arms for cell in arm.cells))
    return _row("identity", "", whole, section, columns, "identity", score, ".2f" if score == "psnr" else ".3f")


def _cost(arms: Sequence[Arm]) -> list[str]:
    if not arms:
        return []
    rows = []
    for arm in arms:
        lists = [
            [float(c.status["step"]) for c in arm.cells if c.status.get("step") is not None],
            [float(c.images) for c in arm.cells if c.images is not None],
            [c.seconds for c in arm.cells if c.seconds is not None],
            [c.images / c.seconds for c in arm.cells if c.images is not None and c.seconds],
            [c.memory for c in arm.cells if c.memory is not None],
        ]
        spreads = [Spread.of(values) for values in lists]
        forms = (".0f", ".0f", ".0f", ".1f", ".0f")
        texts = [NONE if s is None else _short(s, form) for s, form in zip(spreads, forms, strict=True)]
        rows.append([arm.label, str(len(arm.cells)), *texts])
    head = ["arm", "runs", "steps", "images", "seconds", "images/s", "peak memory, MB"]
    return ["### Cost", "Of one run: training with its validations.", _table(head, rows)]


def _short(spread: Spread, form: str) -> str:
    return format(spread.mean, form) if spread.low == spread.high else spread.text(form)


def _failed(cells: Sequence[RunSummary]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell.state != "complete":
            reasons.setdefault((cell.state, cell.reason), []).append(cell.name)
    if not reasons:
        return []
    rows = [
        [state, reason or NONE, str(len(names)), ", ".join(f"`{n}`" for n in names)]
        for (state, reason), names in sorted(reasons.items())
    ]
    return ["### Not complete", _table(["state", "reason", "runs", "which"], rows)]


def _runs(cells: Sequence[RunSummary]) -> list[str]:
    rows = [
        [f"`{c.name}`", c.state, str(c.seed), str(c.status.get("step", NONE)), str(c.status.get("commit") or NONE)]
        for c in cells
    ]
    commands = dict.fromkeys(typed(str(c.status["command"])) for c in cells if c.status.get("command"))
    blocks = ["### Runs", _table(["run", "state", "seed", "step", "commit"], rows)]
    return [*blocks, "```sh\n" + "\n".join(commands) + "\n```"] if commands else blocks


def typed(command: str) -> str:
    """A job's command as a person would type it: without the launcher's absolute paths."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    text = " ".join(words).replace("python -m ip2p_lightning.cli.train", "ip2p-train", 1)
    if not text.startswith("ip2p-train"):
        return command
    words = words[3:] if words[0] != "ip2p-train" else words[1:]
    short, kept = {"--config-name": "-cn", "--config-dir": "-cd"}, ["ip2p-train"]
    launched = "hydra.mode=RUN" in words
    for before, word in zip(["", *words], words, strict=False):
        if word == "hydra.mode=RUN" or (launched and word.startswith("hydra.run.dir=")):
            continue
        if word == "train" and before == "--config-name":
            kept.pop()
            continue
        kept.append(short.get(word, _from_here(word) if before == "--config-dir" else word))
    return shlex.join(kept)


def _from_here(path: str) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers stand to the right of the first column."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    cleaned = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cleaned)
