"""One flipped bit in anything that is stored is noticed: on load, or by ``ip2p-inspect verify``."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ip2p_lightning.cli import export, inspect
from ip2p_lightning.cli.inspect import verified
from ip2p_lightning.data.latent_cache.content_key import Contents
from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.errors import DamagedError
from ip2p_lightning.runs import folder as run_folder
from ip2p_lightning.runs.checkpoint import FOLDER
from ip2p_lightning.system.checksums import read_sealed, write_sealed
from ip2p_lightning.system.file_digests import Digests
from tests.support.disks import bit_flips
from tests.support.trained import train_run

FLIPS = 100


def undetected(folder, path, count=FLIPS):
    """Flips after which `verified` finds nothing wrong."""
    assert not [wrong for _, wrong in verified(folder) if wrong]
    return [flip for flip in bit_flips(path, count) if not any(wrong for _, wrong in verified(folder))]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished run with all that a run may write, in a size that can be read a thousand times."""
    words = ["model=tiny", "unet.widths=[8,16,16]", "callbacks=[default,sample_log]", "val_every=1", "val_examples=1"]
    return train_run(tmp_path_factory.mktemp("small") / "run", *words, "loader.eval_size=32")


KINDS = ["config.json", "status.json", "data.json", "metrics.jsonl", "samples.jsonl", "events.*", "samples/*.png"]
KINDS += [f"{FOLDER}/run.json", f"{FOLDER}/*.sha256", f"{FOLDER}/*.ckpt"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flip_in_a_run_is_noticed(small, kind):
    assert not undetected(small, sorted(small.glob(kind))[-1])


def test_all_of_a_run_is_looked_at(small):
    looked_at = {path for path, _ in verified(small)}
    files = {path for path in small.rglob("*") if path.is_file() and path.name != ".lock"}
    board = {
        path for path in files if path.suffix in (".tsv", ".yaml", ".pbtxt")
    }  # TensorBoard's, made again each time
    assert {path for path in files - board if path.suffix != ".sha256"} == looked_at


def test_a_flip_in_an_export_is_noticed(sd_run, tmp_path):
    folder = tmp_path / "model"
    assert export.main([str(sd_run), str(folder)]) == 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        assert not undetected(folder, path, FLIPS if path.suffix == ".safetensors" or path.name == "SHA256SUMS" else 9)
    (folder / "unet" / "more.bin").write_bytes(b"")
    assert [wrong for _, wrong in verified(folder)] == ["does not belong here"]


@pytest.mark.parametrize("kind", ["*/shard-00000", "*/index", "*/space.json", "sources"])
def test_a_flip_in_a_cache_is_noticed_and_never_read(tmp_path, kind):
    space = Space(tmp_path, {"what": "test"}, 256)
    space.create()
    entries = {hashlib.sha256(bytes([i])).digest(): bytes([i] * 256) for i in range(40)}
    space.put(list(entries.items()))
    Contents(Digests(tmp_path / "sources")).of(SimpleNamespace(sources=lambda i: [Path(__file__)]), 0)
    for path in tmp_path.glob(kind):
        for flip in bit_flips(path, FLIPS):
            fresh = Space(tmp_path, {"what": "test"}, 256)
            assert all(fresh.get(key) in (None, payload) for key, payload in entries.items()), flip
        assert not undetected(tmp_path, path)


def test_a_changed_config_is_not_trained_on_and_may_be_accepted(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "run")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"eval_size": 32', '"eval_size": 64'))
    with pytest.raises(DamagedError, match=r"config\.json: its bytes do not match its sha256; put it back, or remove"):
        run_folder.read_config(folder)
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"}))
    assert run_folder.read_config(folder)["loader"]["eval_size"] == 64


def test_a_status_that_rotted_is_no_state(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "run")
    path = folder / "status.json"
    path.write_text(path.read_text().replace('"step": 2', '"step": 3'))
    assert run_folder.read_status(folder)["state"] == "failed"


def test_sealed_json_reads_as_it_was_written(tmp_path):
    content = {"a": 1e-5, "b": [None, True, "ü\n"], "c": {"x": float("inf"), "y": {}}}
    write_sealed(tmp_path / "x.json", content)
    assert read_sealed(tmp_path / "x.json", strict=True) == content
    assert json.loads((tmp_path / "x.json").read_text()).keys() == {*content, "sha256"}


def test_the_command_says_what_is_damaged(small, tmp_path, capsys):
    folder = shutil.copytree(small, tmp_path / "run")
    assert inspect.main(["verify", str(folder)]) == 0
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("more\n")  # appended since: nothing is known about it
    assert inspect.main(["verify", str(folder)]) == 0
    (folder / "metrics.jsonl").write_text("{}\n")
    capsys.readouterr()
    assert inspect.main(["verify", str(folder)]) == 6
    out, err = capsys.readouterr()
    assert f"its bytes have changed: {folder}/metrics.jsonl" in out and out.count("intact") > 5
    assert err.startswith("error: 1 of ") and "metrics.jsonl" in err
    assert inspect.main(["verify", str(tmp_path)]) == 2
