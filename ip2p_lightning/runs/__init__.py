"""A run's folder: config, status, checkpoints, and whether it may be continued."""
