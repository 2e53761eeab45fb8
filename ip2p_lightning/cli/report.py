"""``ip2p-report``: scores, costs and failures of many runs, as Markdown, CSV and a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ip2p_lightning.cli.parser import Parser, run, shown
from ip2p_lightning.errors import UserError

BEGIN, END = "<!-- report:begin -->", "<!-- report:end -->"
EXAMPLES = """
writes:
  FILE.md     scores per configuration and task, mean and range over seeds, beside the identity baseline (the original,
              unedited) and a wrong instruction; costs; what is not complete and why; commands and commits
  FILE.csv    one row per run, method and task
  FILE.png    every run as a dot; gain against cost

A configuration is a set of overrides, whatever the seed. Scores are those of ip2p-evaluate (scores.csv), or of the last
validation of a run that was not evaluated.

examples:
  ip2p-report runs/first_light                                       to runs/first_light/report.md
  ip2p-report runs/first_light --update experiments/first_light.md   between the markers of a page, leaving its prose
  ip2p-report runs/sweep --by optimizer.lr -o lr.md                  configurations by one key only
  ip2p-report runs/a runs/b -o a-and-b.md

The same runs give the same bytes. Exit codes: 0 done, 2 usage, 5 disk, 6 damaged run.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    page = Parser("ip2p-report", "Compare runs: Markdown, CSV and a picture.", EXAMPLES)
    page.add_argument("runs", metavar="RUNS", type=Path, nargs="+", help="folders of runs, or that hold runs")
    where = page.add_mutually_exclusive_group()
    where.add_argument("-o", "--out", metavar="FILE.md", type=Path, help="default: report.md in the first of RUNS")
    where.add_argument("--update", metavar="FILE.md", type=Path, help=f"a page with {BEGIN} and {END}")
    keys = "keys that make a configuration (default: overrides)"
    page.add_argument("--by", metavar="KEY", nargs="+", default=[], help=keys)
    return run(page, _report, argv)


def _report(args: argparse.Namespace) -> None:
    from ip2p_lightning.evaluation.report import configurations, markdown, plots, runs
    from ip2p_lightning.system.files import write_atomic

    path = args.update or args.out or args.runs[0] / "report.md"
    found = runs.collect(args.runs)
    before, after = _page(path, args.update is not None)
    compared = configurations.compare(found, args.by)
    picture = plots.draw_plot(compared)
    png, table = path.with_suffix(".png"), path.with_suffix(".csv")
    body = markdown.as_markdown(compared, png.name if picture else None)
    if picture:
        write_atomic(png, picture)
    write_atomic(table, configurations.as_csv(compared))
    write_atomic(path, f"{before}{BEGIN}\n\n{body}\n{END}{after}".encode())
    done = sum(run.state == "complete" for run in found)
    print(f"{done} of {len(found)} runs complete, {len(compared.configurations())} configurations")
    print(f"report       {shown(path)}\ntable        {shown(table)}")
    if picture:
        print(f"picture      {shown(png)}")


def _page(path: Path, update: bool) -> tuple[str, str]:
    """The text before and after the report in the file that it is written to."""
    if path.suffix != ".md":
        raise UserError(f"{path}: a report ends in .md; its table and picture get .csv and .png")
    if not path.is_file():
        if update:
            raise UserError(f"{path} does not exist; write it with {BEGIN} and {END} in it, or use -o")
        if not path.parent.is_dir():
            raise UserError(f"{path.parent} is no folder; make it, or choose another place for {path.name}")
        return "# Report\n\n", "\n"
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{path} needs {BEGIN} and, below it, {END}, once each: the report goes between them")
    return before, after


if __name__ == "__main__":
    sys.exit(main())
