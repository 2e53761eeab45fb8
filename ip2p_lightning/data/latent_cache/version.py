"""What of this package and of its libraries decides a stored entry, apart from settings, weights and sources."""

from __future__ import annotations

from importlib.metadata import version

# Of all code between a file's bytes and its stored moments: sources, views, degradations, teachers, autoencoders, `rng`
# and the layout of the store. Raise it, and run `make golden`, when that code gives another entry for the same input;
# tests/data/latent_cache/test_version.py fails until then.
VERSION = 1
LIBRARIES = ("pillow", "numpy", "scipy", "diffusers", "torch")


def libraries() -> dict[str, str]:
    """Their versions, without what a wheel was built for: a cache made on a CPU serves a GPU."""
    return {name: version(name).partition("+")[0] for name in LIBRARIES}
