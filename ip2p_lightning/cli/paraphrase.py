"""``ip2p-data prompts``: a pool of paraphrases, by a language model or from a file, filtered and split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ip2p_lightning.cli.parser import Parser, run, shown
from ip2p_lightning.curation.paraphrase.pool import pool_file, sentence_source, task_pool
from ip2p_lightning.curation.paraphrase.settings import HELP, checked, read_settings
from ip2p_lightning.errors import UserError
from ip2p_lightning.system.files import write_atomic


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns an exit code."""
    parser = Parser("ip2p-data prompts", "Write paraphrases of a task's instruction.", HELP)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    return run(parser, _prompts, argv)


def _prompts(args: argparse.Namespace) -> int:
    settings = checked(read_settings(args.settings))
    names = str(settings.task).split(",")
    out = Path(settings.out or f"{'-'.join(names)}-paraphrases.yaml").expanduser()
    if out.exists() and not settings.force:
        raise UserError(f"{out} is there already; give another out=FILE.yaml, or force=true")
    ask = sentence_source(settings)
    pools = {name: task_pool(name, settings, ask) for name in names}
    write_atomic(out, pool_file(pools, settings).encode())
    for name, (pool, note) in pools.items():
        print(f"{name}: {len(pool.prompts)} prompts, {len(pool.held_out)} held out ({note})")
    print(f"written: {shown(out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
