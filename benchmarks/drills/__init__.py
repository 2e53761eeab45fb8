"""The reliability drills at full size: kill, stop and crowd real runs, groups of ranks and sweeps.

usage: python -m benchmarks.drills [runs | ranks | sweeps | 1 3 6-same 40-rank0 optuna ...] [--work DIR] [--seed N]

Each drill adds its measured outcome to ``benchmarks/results/{runs,ranks,sweeps}_drills_cpu_YYYYMM.md``. One at a time:
they take up to ten minutes each on two cores. What the tests repeat in small has one body, in tests/. The other numbers
(5, 7, 9 to 15, 17, 19, 20) are tests only: they run at full size every time.
"""
