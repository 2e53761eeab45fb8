"""What a run leaves to ``auto``: what is chosen, and who goes by it."""

from types import SimpleNamespace

import pytest

from ip2p_lightning.runs.folder import note, read_status
from ip2p_lightning.training.memory import estimate
from ip2p_lightning.training.resolve_auto import resolve_auto
from tests.support.pieces import autoencoder_fixture, fill, open_cache, pairs_fixture  # noqa: F401

PAYLOAD = 3 * 4 * 4 * 4 * 4  # of a stored pair: 12 planes of 4 x 4 floats


@pytest.fixture
def config(tmp_path, sd_folder):
    """Of a run that sees twelve entries twice."""
    return {
        "cache": "auto",
        "cache_dir": str(tmp_path / "cache"),
        "cache_dtype": "float32",
        "autoencoder": {"_target_": "ip2p_lightning.networks.autoencoder.KLAutoencoder", "path": str(sd_folder)},
        "trainer": {"max_steps": 2},
        "loader": {"batch_size": 12, "size": 32},
        "model": {"gradient_checkpointing": True},
    }


@pytest.fixture
def data(tmp_path, pairs, autoencoder):
    return open_cache(pairs, tmp_path / "other", autoencoder)[0]


def chosen(config, folder, data, afresh=True, ranks=1):
    return resolve_auto(config, folder, data, ranks, afresh)["cache"]


def room(monkeypatch, free):
    monkeypatch.setattr("ip2p_lightning.training.resolve_auto.free_bytes", lambda path: free)


def test_auto_caches_where_it_pays(tmp_path, config, data, capsys):
    pixels = config | {"autoencoder": {"_target_": "ip2p_lightning.networks.autoencoder.PixelUnshuffle"}}
    assert chosen(pixels, tmp_path, data) == "off" and "nothing to store" in capsys.readouterr().out
    assert chosen(config | {"trainer": {"max_steps": 1}}, tmp_path, data) == "off"
    assert "less than twice" in capsys.readouterr().out
    assert chosen(config, tmp_path, data) == "disk"
    assert chosen(config | {"trainer": {"max_steps": 1}}, tmp_path, data, ranks=2) == "disk"
    assert chosen(config | {"cache": "off"}, tmp_path, data) == "off"


def test_auto_counts_only_what_is_missing(tmp_path, config, pairs, data, autoencoder, monkeypatch, capsys):
    _, full = open_cache(pairs, tmp_path / "cache", autoencoder)
    fill(full)
    assert full.codec.payload == PAYLOAD
    room(monkeypatch, int(1.5 * 12 * PAYLOAD))
    assert chosen(config, tmp_path, data) == "disk"
    assert chosen(config | {"cache_dir": str(tmp_path / "empty")}, tmp_path, data) == "off"
    assert "MB needed" in capsys.readouterr().out


@pytest.mark.parametrize("began", ["off", "disk"])
def test_a_run_keeps_what_it_chose_when_it_began(tmp_path, config, data, monkeypatch, began):
    disks = {"off": 0, "disk": 10**9}
    room(monkeypatch, disks.pop(began))
    assert chosen(config, tmp_path, data) == began
    room(monkeypatch, *disks.values())
    assert chosen(config, tmp_path, data, afresh=False) == began
    if began == "disk":
        note(tmp_path, cache={"folder": "here", "hits": 3})  # as the fit leaves it
        assert chosen(config, tmp_path, data, afresh=False) == "disk"
    assert chosen(config, tmp_path, data, afresh=True) != began


def test_gradient_checkpointing_is_chosen_at_each_start(tmp_path, config, data, monkeypatch):
    config |= {"model": {"gradient_checkpointing": "auto"}}
    monkeypatch.setattr(estimate, "estimate", lambda config: SimpleNamespace(total=4.0))
    for fits, gib in ((True, 8.0), (False, 2.0)):
        monkeypatch.setattr(estimate, "room", lambda config, gib=gib: gib)
        assert resolve_auto(config, tmp_path, data, 1, afresh=fits)["model"]["gradient_checkpointing"] is not fits
        assert read_status(tmp_path)["gradient_checkpointing"] is not fits
