"""``ip2p-data``: datasets of instructed edits: built from raw downloads, merged, checked, and looked at."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.cli.parser import Parser, at_least, one_line_warnings, run, run_hydra, version
from ip2p_lightning.errors import UserError, exit_code, outcome, suggest
from ip2p_lightning.system.files import write_json
from ip2p_lightning.system.processes import SUPERVISOR, stop_with_supervisor

_PAGE = """usage: ip2p-data COMMAND ...

Datasets of instructed edits: Parquet files with embedded images, for ip2p-train and for diffusers' own script.

commands:
  build     from raw downloads to an audited dataset (key=value settings, as ip2p-train)
  merge     finish a dataset whose shards were built by several jobs
  show      contact sheets of pairs of every task, and a summary
  verify    check every file of a dataset against its sha256
  prompts   write paraphrases of a task's instruction with a language model

examples:
  ip2p-data build task=derain source=rain100l source.root=DOWNLOADS/rain100l out=data/rain
  ip2p-data build task=own task.name=sepia source=folder source.root=MY_PAIRS out=data/sepia on_bad=skip
  ip2p-data build task=cartoon source=imagenette source.root=DIR out=data/toon build.workers=4
  ip2p-data build -m build.shard=0,1,2,3 build.shards=4 task=... source=... out=DIR && ip2p-data merge DIR
  ip2p-data build recipe=itsd_low_level out=DIR parts.deblur.source.root=... (the original experiment's mixture)
  ip2p-data show data/rain
  ip2p-train data=built data.root=data/rain task=derain

sources: {sources}
recipes: {recipes}
`ip2p-data build --help` lists every setting; docs/data.md explains them.
exit codes: 0 done, 2 usage, 3 bad data, 5 disk, 6 damaged, 7 unsafe path.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command; returns an exit code."""
    with warnings.catch_warnings():
        one_line_warnings()
        return exit_code(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        print(version(), end="")
        return 0
    if not words or words[0] in ("-h", "--help"):
        from ip2p_lightning.config.hydra_errors import members

        print(_PAGE.format(sources=", ".join(members("source")), recipes=", ".join(members("recipe"))), end="")
        return 0
    commands = {"build": _build, "merge": _merge, "show": _show, "verify": _verify, "prompts": _prompts}
    if words[0] not in commands:
        raise UserError(f"no command '{words[0]}'{suggest(words[0], commands)}; see ip2p-data --help")
    return commands[words[0]](words[1:])


def _build(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        from ip2p_lightning.config.compose import CONF

        print((CONF / "build.yaml").read_text().partition("\ndata: null")[0], end="")  # commented, without the prompts
        return 0
    launched = any(word.startswith("hydra/launcher=") for word in words)
    if launched:  # each shard as a job of its own, on this machine or on a cluster
        from ip2p_lightning.sweeps import local_launcher, plugins

        plugins.register()
    stop_with_supervisor()
    code = run_hydra("build", ["ip2p-data build", *words], lambda config: exit_code(lambda: _job(config)))
    if launched:
        local_launcher.conclude()
    return code


def _job(composed: Any) -> int:
    """Build a composed config's dataset, or one shard of it; returns the exit code."""
    from ip2p_lightning.config.compose import plain
    from ip2p_lightning.curation.build import build
    from ip2p_lightning.curation.from_config import build_settings

    config = plain(composed)
    settings = build_settings(copy.deepcopy(config))
    with _status_written(config):
        return build(settings, Path(config["out"]).expanduser(), config["build"]["shard"], config["build"]["shards"])


@contextlib.contextmanager
def _status_written(config: dict[str, Any]) -> Iterator[None]:
    """If a launcher started this job, write config and status into its folder, as a training run does."""
    if not os.environ.get(SUPERVISOR):
        yield
        return
    from hydra.core.hydra_config import HydraConfig

    from ip2p_lightning.runs.folder import CONFIG, STATUS

    folder = Path(HydraConfig.get().runtime.output_dir)
    write_json(folder / CONFIG, config)
    try:
        yield
        write_json(folder / STATUS, {"state": "complete", "exit_code": 0})
    except BaseException as error:
        code, reason = outcome(error)
        write_json(folder / STATUS, {"state": "failed", "exit_code": code, "reason": reason})
        raise


def _merge(words: list[str]) -> int:
    summary = "Finish a dataset whose shards were built by several jobs."
    parser = Parser("ip2p-data merge", summary, "ip2p-data merge DIR")
    parser.add_argument("out", type=_path, help="the folder that the shards were built in")
    parser.add_argument("--on-bad", choices=["fail", "skip"], default="fail", help="bad pairs: stop, or leave them out")

    def merge(args: Any) -> None:
        from ip2p_lightning.curation.build import finish

        finish(args.out, args.on_bad)

    return run(parser, merge, words)


def _show(words: list[str]) -> int:
    summary = "Contact sheets of a dataset, and a summary."
    parser = Parser("ip2p-data show", summary, "ip2p-data show data/rain --pairs 8")
    parser.add_argument("dataset", type=_path, help="a folder written by ip2p-data build")
    parser.add_argument("--out", type=_path, help="where to write (default: DATASET-show beside it)")
    parser.add_argument("--pairs", type=at_least(1), default=6, help="pairs of each task on its sheet (6)")

    def show(args: Any) -> None:
        from ip2p_lightning.curation.show import show

        out = args.out or args.dataset.with_name(f"{args.dataset.resolve().name}-show")
        print(f"{show(args.dataset, out, args.pairs)}\nlook at: {out}")

    return run(parser, show, words)


def _verify(words: list[str]) -> int:
    summary = "Check every file of a dataset against its sha256."
    parser = Parser("ip2p-data verify", summary, "ip2p-data verify data/rain")
    parser.add_argument("dataset", type=_path, help="a folder written by ip2p-data build")

    def verify(args: Any) -> None:
        from ip2p_lightning.curation.verify import verify

        print(verify(args.dataset))

    return run(parser, verify, words)


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _prompts(words: list[str]) -> int:
    from ip2p_lightning.cli import paraphrase

    return paraphrase.main(words)


if __name__ == "__main__":
    sys.exit(main())
