"""The full-size reliability drills of single runs: kill, stop, starve and damage real runs, and compare digests.

usage: python -m benchmarks.drills [1 3 6-same ...] [--work DIR] [--seed N]

Each drill adds its measured outcome to ``benchmarks/drills_202611.md``. One at a time: they take up to ten minutes
each on two cores, kill or not. The drills of groups of ranks and of sweeps are in ``benchmarks/group_drills.py``.
"""

from benchmarks.drills.storm import LONG, Storm, losses, recipe, samples, trains, undisturbed

__all__ = ["LONG", "Storm", "losses", "recipe", "samples", "trains", "undisturbed"]
