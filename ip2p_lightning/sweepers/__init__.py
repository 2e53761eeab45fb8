"""Which jobs a sweep has, where they are not simply all combinations."""

from ip2p_lightning.sweepers.optuna import OptunaSweeper

__all__ = ["OptunaSweeper"]
