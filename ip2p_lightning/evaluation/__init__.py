"""Metrics, scores of a run, reports over many runs."""
