"""The operating system: files, checksums, locks, signals, child processes. Knows nothing of runs or tensors."""
