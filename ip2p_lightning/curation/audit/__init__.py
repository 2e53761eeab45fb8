"""Checks on each candidate pair, and on leaks between splits."""
