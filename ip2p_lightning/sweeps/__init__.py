"""Many runs: launchers for this machine and SLURM, and the Optuna search."""
