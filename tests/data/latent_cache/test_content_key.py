"""Twelve kinds of change, each of which rebuilds exactly what it touches."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.degradations.noise import GaussianNoise
from ip2p_lightning.data.degradations.rain import Rain
from ip2p_lightning.data.latent_cache import cache, version
from ip2p_lightning.data.latent_cache.content_key import described
from ip2p_lightning.data.latent_cache.examples import Variant, collate
from ip2p_lightning.data.sources.image_files import image_store
from ip2p_lightning.data.sources.photos import Photos
from ip2p_lightning.data.teachers.generator import GeneratorTeacher
from ip2p_lightning.errors import UserError
from ip2p_lightning.networks.autoencoder import TAESD, KLAutoencoder
from ip2p_lightning.system.file_digests import MEMO, Digests
from tests.support.pieces import Counting, autoencoder_fixture, counting_fixture, fill, open_cache, pairs_fixture  # noqa: F401

LOADER = Loader(batch_size=2, size=32, crop="center")
ALL = 12  # 6 pairs, both flips


@pytest.fixture
def full(pairs, tmp_path, autoencoder):
    """How many entries another fill computes, under other circumstances."""

    def refill(**more):
        words = {"autoencoder": autoencoder} | more
        _, cache = open_cache(pairs, tmp_path / "cache", words.pop("autoencoder"), **words)
        return fill(cache)

    assert refill() == ALL and refill() == 0
    return refill


def test_one_byte_of_one_source(full, pairs):
    path = pairs / "train" / "input" / "0002.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert full() == 2 and full() == 0


def _random_bitmap(path, seed):
    """All of one size on disk."""
    low = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(low).resize((40, 40)).save(path)


def _replaced(path, seed):
    """Another image of the same size and time, as ``cp -p`` and ``rsync -t`` leave it."""
    before = path.stat()
    _random_bitmap(path, seed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _bitmaps(root):
    for seed, side in enumerate(("input", "target")):
        _random_bitmap(root / "train" / side / "a.bmp", seed)
    return root, root / "train" / "target" / "a.bmp"


def test_a_source_replaced_during_a_run_is_stored_as_what_it_is(tmp_path):
    root, target = _bitmaps(tmp_path / "pairs")
    (_, cache), (_, fresh) = (open_cache(root, tmp_path / name, Counting(), flip=0.0) for name in ("c", "d"))
    (task,), (other,) = cache.tasks.tasks.values(), fresh.tasks.tasks.values()
    cache.filler(collate([task.item(0, Variant(0, False), "")]))
    _replaced(target, 2)
    stored = cache.filler(collate([task.item(0, Variant(0, False), "")]))
    image_store(512, "test")._kept.clear()
    true = fresh.filler(collate([other.item(0, Variant(0, False), "")]))
    assert torch.equal(stored.edited, true.edited) and cache.filler.counts.filled == 2


def test_a_source_replaced_while_it_is_read_is_not_stored(tmp_path, monkeypatch):
    root, target = _bitmaps(tmp_path / "pairs")
    _, cache = open_cache(root, tmp_path / "cache", Counting(), flip=0.0)
    (task,) = cache.tasks.tasks.values()
    pairs = task.base.pairs
    whole = pairs.pair

    def replaced_first(*words):
        _replaced(target, 3)
        return whole(*words)

    monkeypatch.setattr(pairs, "pair", replaced_first)
    item = task.item(0, Variant(0, False), "")
    assert item.key == b"" and not item.cached


def test_touching_rebuilds_nothing(full, pairs):
    for path in pairs.rglob("*.png"):
        os.utime(path, (1, 1))
    assert full() == 0


def test_renaming_rebuilds_nothing(full, pairs):
    for side in ("input", "target"):
        (pairs / "train" / side / "0001.png").rename(pairs / "train" / side / "renamed.png")
    assert full() == 0


def one_weight(made):
    with torch.no_grad():
        next(made.model.parameters())[0, 0, 0, 0] += 1e-3


def its_scale(made):
    made.scaling_factor = 0.5


@pytest.mark.parametrize("change", [one_weight, its_scale])
def test_another_autoencoder(full, sd_folder, change):
    other = KLAutoencoder(str(sd_folder))
    change(other)
    assert full(autoencoder=other) == ALL and full() == 0


@pytest.mark.parametrize("change", [{"norm_num_groups": 2}, {"act_fn": "relu"}], ids=["groups", "activation"])
def test_its_settings(sd_folder, tmp_path, autoencoder, change):
    shutil.copytree(sd_folder / "vae", tmp_path / "vae")
    config = tmp_path / "vae" / "config.json"
    same = KLAutoencoder(str(tmp_path)).digest()
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    assert KLAutoencoder(str(tmp_path)).digest() != same == autoencoder.digest()


def test_the_tiny_autoencoders_own_scale(tmp_path):
    """`latent_scale` takes its place, but the moments go by the ratio of both."""
    from diffusers import AutoencoderTiny

    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    AutoencoderTiny(**widths).save_pretrained(tmp_path)
    before, config = TAESD(str(tmp_path), latent_scale=0.18215).digest(), tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 2.0}))
    assert TAESD(str(tmp_path), latent_scale=0.18215).digest() != before


RANDOM = replace(LOADER, crop="random")


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({"loader": replace(LOADER, size=24)}, ALL),
        ({"loader": RANDOM}, 2 * 4 * 6),
        ({"loader": replace(LOADER, resize=(32, 32))}, ALL),
        ({"dtype": "bfloat16"}, ALL),
        ({"precision": "high"}, ALL),
        ({"prompts": ("another",)}, 0),
        ({"prompts": ("another", "template")}, 0),
    ],
    ids=str,
)
def test_settings_that_count_and_words_that_do_not(full, more, count):
    assert full(**more) == count and full() == 0


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ([{"flip": flip} for flip in (0.0, 0.5, 1.0)], [6, 6, 0]),
        ([{"flip": 0.0, "loader": RANDOM, "variants": n} for n in (2, 3, 3)], [12, 6, 0]),
    ],
    ids=["flips", "crops"],
)
def test_more_views_add_what_they_need(pairs, tmp_path, counting, settings, counts):
    assert [fill(open_cache(pairs, tmp_path / "c", counting, **more)[1]) for more in settings] == counts


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("small", [0, 1 << 26], ids=["remembered", "hashed anew"])
def test_changed_sources_are_counted_whoever_finds_them(pairs, tmp_path, monkeypatch, workers, small):
    monkeypatch.setattr("ip2p_lightning.system.file_digests._SETTLED", 0)
    monkeypatch.setattr("ip2p_lightning.data.sources.fingerprints.SMALL", small)
    loader = replace(LOADER, batch_size=3, workers=workers)
    for changed in ((), ("0003", "0005")):
        for name in changed:
            shutil.copy(pairs / "train" / "target" / "0004.png", pairs / "train" / "target" / f"{name}.png")
        data, cache = open_cache(pairs, tmp_path / "cache", Counting(), loader=loader)
        data.contents(("train",), Digests(tmp_path / "cache" / MEMO))
        batches = data.train_dataloader()
        assert len(list(batches)) == 2
        batches.close()
        state = cache.state()
        assert state["changed_sources"] == len(changed)
        if small:
            assert state["sources_read"] == (len(changed) or 12)


def test_degradations_are_fresh_unless_frozen(tmp_path):
    more = {"source": Photos(), "make": Rain(), "loader": RANDOM}
    data, fresh = open_cache(None, tmp_path, Counting(), **more)
    assert "made anew for every example" in fresh.summary() and data.cache is None
    _, frozen = open_cache(None, tmp_path, Counting(), draws=3, **more)
    assert fill(frozen) == 6 * 3 * 2 and "36 of 36" in frozen.summary()
    _, other = open_cache(None, tmp_path, Counting(), draws=3, **(more | {"make": GaussianNoise()}))
    assert fill(other) == 36


def test_a_teacher_is_described_by_its_weights_and_not_by_what_it_loaded(tmp_path):
    (tmp_path / "weights").write_bytes(b"one")
    teacher = GeneratorTeacher(str(tmp_path / "weights"))
    before = described(teacher)
    (tmp_path / "weights").write_bytes(b"two")
    assert described(teacher) != before
    (tmp_path / "weights").write_bytes(b"one")
    teacher._loaded["cpu"] = torch.nn.Linear(1, 1)
    assert described(teacher) == before
    assert described(Rain()) == described(Rain()) != described(GaussianNoise())


def test_the_version_of_the_code(full, monkeypatch):
    monkeypatch.setattr(cache, "VERSION", version.VERSION + 1)
    assert full() == ALL


@pytest.mark.parametrize("library", version.LIBRARIES)
def test_libraries_count_but_not_what_they_were_built_for(full, monkeypatch, library):
    known = version.version
    other = {"built": lambda name: f"{known(name).partition('+')[0]}+cu999", "new": lambda name: "99"}
    for how, count in (("built", 0), ("new", ALL)):
        monkeypatch.setattr(version, "version", lambda n, f=other[how]: f(n) if n == library else known(n))
        assert full() == count


class Mine:
    """A degradation from outside the package."""

    def __call__(self, photo, rng):
        return photo


def test_a_class_from_elsewhere_declares_its_version_or_is_not_cached(tmp_path, monkeypatch):
    words = {"source": Photos(), "make": Mine(), "loader": LOADER, "draws": 1}
    with pytest.raises(UserError, match=r"test_content_key.Mine changes; give the class a number"):
        open_cache(None, tmp_path, Counting(), **words)
    for number in (1, 2):
        monkeypatch.setattr(Mine, "version", number, raising=False)
        assert fill(open_cache(None, tmp_path, Counting(), **words)[1]) == ALL
    monkeypatch.setattr(Counting, "version", 2)  # an autoencoder's counts as well
    assert fill(open_cache(None, tmp_path, Counting(), **words)[1]) == ALL
