"""Photos to edit, and ``ip2p-edit`` in this process."""

import numpy as np
from PIL import Image

from ip2p_lightning.cli.edit import main

PROMPT = "take the noise out"


def photo(path, size=(101, 67), seed=0, **options):
    """A smooth picture with some grain, saved at `path`."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int) + rng.integers(-9, 9, 3)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, **options)
    return path


def edit(*words):
    return main([str(word) for word in words])


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)
