"""The report as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from ip2p_lightning.evaluation.report.configurations import MEAN, Comparison, Section, per_run
from ip2p_lightning.system.escaping import markdown_text

NONE, SPACE = "–", "&emsp;"
SPLITS = {"test": "held-out photos (test)", "val": "validation photos (val)", "train": "training photos (train)"}
PROMPTS = {"heldout": "held-out instructions", "seen": "instructions of the training pool"}
IDENTITY = "*identity* is the original, unedited; *gain* is the model minus identity, run by run."


def as_markdown(found: Comparison, plot: str | None) -> str:
    """Scores, costs, failures, commands; the same runs give the same text. `plot`: file name of the picture, if any."""
    summary = f"{(found.runs['state'] == 'complete').sum()} of {len(found.runs)} runs complete"
    if found.shared:
        summary += "; all with " + " ".join(f"`{key}={value}`" for key, value in found.shared.items())
    parts = [summary + "."]
    for section in found.sections():
        parts += _section(found.section(section), where(section))
        if plot:
            parts.append(f"![PSNR of each configuration per task, and gain against cost]({plot})")
            plot = None
    if not found.sections():
        parts.append("No scores yet: none of the complete runs was validated, or evaluated by ip2p-evaluate.")
    return "\n\n".join([*parts, *_earlier(found), *_cost(found.runs), *_failed(found.runs), *_runs(found.runs)]) + "\n"


def _earlier(found: Comparison) -> list[str]:
    """Which runs went on after they were evaluated."""
    table = found.scores.merge(found.runs[["run", "step"]], on="run")
    table = table[(table["weights"] != "") & (table["scored_step"] < table["step"])].drop_duplicates("run")
    which = ", ".join(f"`{row.run}` (scored at step {row.scored_step} of {row.step})" for row in table.itertuples())
    return [f"**Trained on since they were scored; evaluate them again:** {which}."] if which else []


def where(section: Section) -> str:
    """A readable name of a section."""
    split, prompts = section
    return f"{SPLITS.get(split, split)}, {PROMPTS.get(prompts, prompts)}"


def _section(rows: pd.DataFrame, title: str) -> list[str]:
    counts = sorted(set(rows["n"]) - {0})
    images = f"; {' or '.join(map(str, counts))} images a task and run" if counts else ""
    psnr, ssim = (per_run(rows, score) for score in ("psnr", "ssim"))
    seeds = (
        rows[rows["method"] == "model"]
        .groupby("configuration", observed=True)["seed"]
        .agg(lambda seeds: ", ".join(sorted(set(map(str, seeds)))))
    )
    head = ["configuration", "seeds", *psnr["model"].columns]
    similar = [[label, seeds[label], *texts] for label, texts in _texts(ssim["model"], ".3f").items()]
    return [
        f"### PSNR on {title}",
        f"In dB, mean over the runs of a configuration and (lowest–highest){images}. {IDENTITY}",
        _table(head, _psnr_rows(psnr, seeds)),
        f"### SSIM on {title}",
        _table(head, [_baseline(ssim, ".3f"), *similar]),
    ]


def _psnr_rows(tables: Mapping[str, pd.DataFrame], seeds: Mapping[str, str]) -> list[list[str]]:
    identity, own = _texts(tables["identity"]), _own_baseline(tables["identity"])
    gain, wrong = _texts(tables["gain"], "+.2f"), _texts(tables["wrong_instruction"])
    rows = [] if own else [_baseline(tables, ".2f")]
    for label, model in _best_in_bold(tables["model"]).items():
        if own:
            rows.append([f"{label}: identity", seeds[label], *identity.get(label, [])])
        rows += [[f"**{label}**", seeds[label], *model], [f"{SPACE}gain", "", *gain[label]]]
        if label in wrong:
            rows.append([f"{SPACE}wrong instruction", "", *wrong[label]])
    return rows


def _texts(table: pd.DataFrame, form: str = ".2f") -> dict[str, list[str]]:
    """Per configuration, one text per column."""
    groups = table.groupby(level="configuration", observed=True)
    return {label: [_spread(group[task], form) for task in table] for label, group in groups}


def _spread(values: pd.Series, form: str) -> str:
    """The mean, with the range in brackets where there is one."""
    values = values.dropna().astype(float)
    if values.empty:
        return NONE
    mean, low, high = (format(x, form) for x in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low}{' to ' if form.startswith('+') else '–'}{high})"


def _best_in_bold(table: pd.DataFrame) -> dict[str, list[str]]:
    means = table.groupby(level="configuration", observed=True).mean()
    best = means.eq(means.max()) & (len(means) > 1)
    return {
        label: [f"**{text}**" if bold else text for text, bold in zip(texts, best.loc[label], strict=True)]
        for label, texts in _texts(table).items()
    }


def _own_baseline(identity: pd.DataFrame) -> bool:
    """Whether the identity baseline differs between configurations, because their data does."""
    means = identity.drop(columns=MEAN).groupby(level="configuration", observed=True).mean()
    return bool((means.max() - means.min()).max() > 0.005)


def _baseline(tables: Mapping[str, pd.DataFrame], form: str) -> list[str]:
    return ["identity", "", *(_spread(tables["identity"][task], form) for task in tables["identity"])]


def _cost(runs: pd.DataFrame) -> list[str]:
    forms = {"step": ".0f", "images": ".0f", "seconds": ".0f", "speed": ".1f", "peak_memory_mb": ".0f"}
    groups = runs.assign(speed=runs["images"] / runs["seconds"]).groupby("configuration", observed=True)
    rows = [[label, str(len(group)), *(_spread(group[c], f) for c, f in forms.items())] for label, group in groups]
    head = ["configuration", "runs", "steps", "images", "seconds", "images/s", "peak memory, MB"]
    return ["### Cost", "Of one run: training with its validations.", _table(head, rows)] if rows else []


def _failed(runs: pd.DataFrame) -> list[str]:
    groups = runs[runs["state"] != "complete"].groupby(["state", "reason"])["run"]
    rows = [[*key, str(len(names)), ", ".join(f"`{name}`" for name in names)] for key, names in groups]
    return ["### Not complete", _table(["state", "reason", "runs", "which"], rows)] if rows else []


def _runs(runs: pd.DataFrame) -> list[str]:
    table = runs.assign(run="`" + runs["run"] + "`")[["run", "state", "seed", "step", "commit"]]
    blocks = ["### Runs", _table(list(table.columns), table.astype(object).fillna(NONE).values.tolist())]
    commands = dict.fromkeys(readable_command(command) for command in runs["command"].dropna())
    return [*blocks, "```sh\n" + "\n".join(commands) + "\n```"] if commands else blocks


def readable_command(command: str) -> str:
    """A job's command without the launcher's own overrides and absolute paths."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    if "hydra.mode=RUN" in words:  # started by a launcher
        words = [word for word in words if not word.startswith(("hydra.mode=", "hydra.run.dir="))]
    text = f"{shlex.join(words)} ".replace("python -m ip2p_lightning.cli.train ", "ip2p-train ", 1)
    short = {" --config-name train ": " ", " --config-name ": " -cn ", " --config-dir ": " -cd "}
    for long, word in (short | {f" -cd {shlex.quote(str(Path.cwd()))}/": " -cd "}).items():
        text = text.replace(long, word)
    return text.strip()


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers stand to the right of the first column."""
    cells = [[SPACE.join(map(markdown_text, str(cell).split(SPACE))) for cell in row] for row in rows]
    align = ["left", *["right"] * (len(head) - 1)]
    return tabulate(cells, head, tablefmt="pipe", colalign=align, disable_numparse=True)
