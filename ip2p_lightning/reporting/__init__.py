"""Many runs in one view: what was run, what it scored, what it cost, what failed."""

from ip2p_lightning.reporting.arms import Arm, group
from ip2p_lightning.reporting.cells import Cell, Score, collect
from ip2p_lightning.reporting.markdown import as_markdown
from ip2p_lightning.reporting.plots import draw
from ip2p_lightning.reporting.table import as_csv

__all__ = ["Arm", "Cell", "Score", "as_csv", "as_markdown", "collect", "draw", "group"]
