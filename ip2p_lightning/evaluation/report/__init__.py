"""Many runs in one view: what was run, what it scored, what it cost, what failed."""

from ip2p_lightning.evaluation.report.configurations import Comparison, compare
from ip2p_lightning.evaluation.report.csv_table import as_csv
from ip2p_lightning.evaluation.report.markdown import as_markdown
from ip2p_lightning.evaluation.report.plots import draw
from ip2p_lightning.evaluation.report.runs import RunSummary, Score, collect

__all__ = ["Comparison", "RunSummary", "Score", "as_csv", "as_markdown", "collect", "compare", "draw"]
