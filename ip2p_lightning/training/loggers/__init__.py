"""Where a run's scalars, pictures and hyperparameters go."""
