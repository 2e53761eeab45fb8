"""Training from the cache is training without it."""

import gc

import pytest
import torch

from ip2p_lightning.data.example import EditExample
from ip2p_lightning.data.latent_cache.examples import Variant, collate
from ip2p_lightning.rng import torch_rng
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.runs.metrics_log import read_metrics
from ip2p_lightning.runs.trained_run import open_run
from tests.support.pieces import counting_fixture, open_cache, pairs_fixture  # noqa: F401
from tests.support.trained import train_run


def losses(run):
    return [line["train/loss"] for line in read_metrics(run) if "train/loss" in line]


def sd_words(sd_folder, root, *more):
    words = ["model=local", f"model.path={sd_folder}", "data=folder", f"data.root={root}", "task=own", "log_every=1"]
    words += [
        "task.prompts.prompts=[edit the image]",
        "loader.resize=null",
        "loader.crop=center",
        "trainer.max_steps=5",
    ]
    return [*words, *more]


@pytest.fixture
def two_folders(tmp_path, pairs):
    (pairs / "val").symlink_to(pairs / "train")
    return tmp_path


def test_losses_are_equal_to_1e_6_and_with_bf16_within_its_bound(two_folders, sd_folder):
    """Center crop and flip: the stored views are all views, so the numbers agree to the rounding of fp32."""
    words = sd_words(sd_folder, two_folders / "pairs")
    plain = losses(train_run(two_folders / "a", *words, "cache=off"))
    words += ["cache=disk", f"cache_dir={two_folders}/cache"]
    first, second = (losses(train_run(two_folders / name, *words)) for name in "bc")
    assert first == pytest.approx(plain, rel=1e-6) and second == pytest.approx(plain, rel=1e-6) and len(plain) == 5
    counts = read_status(two_folders / "c")["cache"]
    assert counts["filled"] == 0 and counts["hits"] == 10 and counts["damaged"] == 0
    halved = losses(train_run(two_folders / "d", *words, "cache_dtype=bfloat16"))
    assert halved == pytest.approx(plain, rel=2**-7) and halved != plain


def test_a_run_from_the_cache_continues_as_if_never_stopped(two_folders, sd_folder):
    words = sd_words(sd_folder, two_folders / "pairs", "cache=disk", f"cache_dir={two_folders}/cache", "save_every=3")
    whole = losses(train_run(two_folders / "a", *words))
    train_run(two_folders / "b", *words, "trainer.max_steps=3")
    gc.collect()  # the first run's folder is held until its objects are gone: here they share a process
    parts = losses(train_run(two_folders / "b", *words, "resume_allow=[trainer.max_steps]"))
    assert parts == whole


def test_batches_stay_page_locked(tmp_path, pairs, counting, monkeypatch):
    """On a GPU: what is cached as a whole is the loader's own batch, what is encoded here is page-locked anew."""
    _, cache = open_cache(pairs, tmp_path / "cache", counting)
    (task,) = cache.tasks.tasks.values()
    whole, mixed = ([task.item(i, Variant(0, False), "") for i in places] for places in ((0, 1), (1, 2)))
    cache.filler(collate(whole))
    whole, mixed = (collate([task.item(i, Variant(0, False), "") for i in places]) for places in ((0, 1), (2, 1)))
    assert cache.filler(whole).original is whole.cached.example.original
    locked = []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: locked.append(tensor) or tensor)
    batch = cache.filler(mixed)
    assert locked[0] is batch.original and locked[1] is batch.edited and batch.id == ["0002", "0001"]


def test_a_continued_run_keeps_what_auto_chose(two_folders, sd_folder, monkeypatch):
    """Though the disk is full by now, and the steps are fewer than would have been worth it."""
    words = sd_words(sd_folder, two_folders / "pairs", "cache=auto", f"cache_dir={two_folders}/cache", "save_every=3")
    train_run(two_folders / "a", *words, "trainer.max_steps=12")
    gc.collect()
    monkeypatch.setattr("ip2p_lightning.training.resolve_auto.free_bytes", lambda path: 0)
    monkeypatch.setattr("ip2p_lightning.training.resolve_auto.samples_of", lambda *words: 0)
    run = train_run(two_folders / "a", *words, "trainer.max_steps=13", "resume_allow=[trainer.max_steps]")
    assert read_status(run)["cache"]["hits"] == 2


def test_moments_and_pixels_give_one_loss(sd_run):
    module = open_run(sd_run).module
    images = torch.rand(2, 2, 3, 32, 32, generator=torch_rng("images")) * 2 - 1
    batch = EditExample(*images, ["a", "b"], ["denoise"] * 2, ["1", "2"])
    original, edited = map(module.autoencoder.moments, images)
    encoded = batch._replace(original=original, edited=edited)
    draws, same = (module.draws(b, torch_rng("draws")) for b in (batch, encoded))
    assert all(torch.equal(a, b) for a, b in zip(draws, same, strict=True))
    torch.testing.assert_close(module.loss(encoded, same), module.loss(batch, draws), rtol=1e-6, atol=0)
