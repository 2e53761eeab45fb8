"""Combinations of values that a run refuses, each with the line that says why."""
