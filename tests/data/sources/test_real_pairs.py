"""Real pairs, where the shared data is at hand."""

from pathlib import Path

import numpy as np
import pytest

from ip2p_lightning.data.sources import Folder, Manifest
from ip2p_lightning.data.transforms import View
from ip2p_lightning.rng import numpy_rng

SHARED = Path(__file__).parents[4] / "shared" / "data"
SPLITS = ("train", "val", "test")


@pytest.mark.skipif(not (SHARED / "pairs.jsonl").is_file(), reason="no shared data")
def test_real_pairs() -> None:
    source = Manifest(str(SHARED / "pairs.jsonl"), None, "input", "target", None, task="derain")
    sizes = {split: len(source.pairs(split)) for split in SPLITS}
    assert all(sizes.values())
    original, edited = source.pairs("test").pair(0, numpy_rng(0), View(64))
    assert original.shape == edited.shape == (64, 64, 3) and 0 < np.abs(original - edited).mean() < 0.3
    folder = Folder(str(SHARED / "derain" / "rain100l"))
    assert sum(len(folder.pairs(split)) for split in SPLITS) > 5
