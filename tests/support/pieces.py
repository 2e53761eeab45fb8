"""Small pairs, a small autoencoder, and a cache between them."""

import numpy as np
import pytest
import torch
from PIL import Image

import ip2p_lightning  # noqa: F401
from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.datamodules import EditDataModule
from ip2p_lightning.data.latent_cache.cache import Cache, Settings
from ip2p_lightning.data.prompts import PromptPool
from ip2p_lightning.data.sources.folder import Folder
from ip2p_lightning.networks.autoencoder import KLAutoencoder


def write_pairs(root, count, size=40, seed=0):
    """`count` pairs of small random images below `root`."""
    rng = np.random.default_rng(seed)
    for side in ("input", "target"):
        (root / "train" / side).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        for side in ("input", "target"):
            low = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(low).resize((size, size)).save(root / "train" / side / f"{i:04d}.png")
    return root


@pytest.fixture(name="pairs")
def pairs_fixture(tmp_path):
    return write_pairs(tmp_path / "pairs", 6)


@pytest.fixture(scope="session", name="autoencoder")
def autoencoder_fixture(sd_folder):
    return KLAutoencoder(str(sd_folder))


class Counting:
    """An autoencoder that counts what it encodes; a plain mean over patches unless it is given a real one."""

    channels, factor, scaling_factor, deterministic, model = 4, 8, 1.0, False, None
    version = 1

    def __init__(self, name="counting"):
        self.name, self.calls, self.images = name, 0, 0

    def moments(self, x):
        self.calls, self.images = self.calls + 1, self.images + len(x)
        pooled = torch.nn.functional.avg_pool2d(x, self.factor)
        return torch.cat([pooled, pooled[:, :1], -pooled, -pooled[:, :1]], dim=1)

    def digest(self):
        return self.name


@pytest.fixture(name="counting")
def counting_fixture():
    return Counting()


def open_cache(root, folder, autoencoder, *, flip=0.5, source=None, make=None, prompts=("a",), loader=None, **more):
    """A data module of `root` with a cache in `folder`: (data, cache)."""
    loader = loader or Loader(batch_size=2, size=32, crop="center")
    source = source or Folder(str(root))
    data = EditDataModule(source, PromptPool(list(prompts)), make=make, flip=flip, loader=loader)
    cache = Cache(Settings(**({"mode": "disk", "folder": folder} | more)), data, autoencoder)
    if not cache.reason:
        data.cache = cache.batches
    return data, cache


def fill(cache):
    """Go through every view of every pair; how many entries had to be computed."""
    from ip2p_lightning.data.latent_cache.fill import fill_all

    before = cache.filler.counts.filled
    for _ in fill_all(cache, Loader(batch_size=16)):
        pass
    return cache.filler.counts.filled - before
