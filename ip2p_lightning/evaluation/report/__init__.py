"""Compare runs: settings, scores, costs and failures."""

from ip2p_lightning.evaluation.report.configurations import Comparison, as_csv, compare
from ip2p_lightning.evaluation.report.markdown import as_markdown
from ip2p_lightning.evaluation.report.plots import draw_plot
from ip2p_lightning.evaluation.report.runs import RunSummary, Score, collect

__all__ = ["Comparison", "RunSummary", "Score", "as_csv", "as_markdown", "collect", "compare", "draw_plot"]
