"""Paths between two ends, what is predicted on them, and how they are walked."""
