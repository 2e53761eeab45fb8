"""``make golden``: record the losses that ``test_golden`` compares with."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "golden"
STEPS = 5
WORDS = {
    "tiny": ["model=tiny", "loader.resize=null"],
    "sd": [
        "model=local",
        "model.path={sd}",
        "loader.resize=null",
        "trainer.accumulate_grad_batches=2",
        "model.drop=0.2",
    ],
}


def losses(name: str, work: Path) -> list[float]:
    """The first losses of a recipe, trained through the real command."""
    from tests.support.sd_checkpoint import write_sd_checkpoint
    from tests.support.trained import train_run

    sd = write_sd_checkpoint(work / "sd") if name == "sd" else ""
    words = [word.format(sd=sd) for word in WORDS[name]]
    run = train_run(work / name, *words, f"trainer.max_steps={STEPS}", "log_every=1", "save_every=100", "seed=7")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def main() -> None:
    """Record every recipe."""
    FOLDER.mkdir(exist_ok=True)
    for name in WORDS:
        with tempfile.TemporaryDirectory() as work:
            found = {"words": WORDS[name], "losses": losses(name, Path(work))}
        (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(f"{name}: {found['losses']}")


if __name__ == "__main__":
    main()
