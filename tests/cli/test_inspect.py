"""One flipped bit in a checkpoint, an export or a cache is noticed: on load, or by ``ip2p-inspect verify``."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ip2p_lightning.cli import export
from ip2p_lightning.cli.inspect import verified
from ip2p_lightning.data.latent_cache.content_key import Contents
from ip2p_lightning.data.latent_cache.store import Space
from ip2p_lightning.runs import folder as run_folder
from ip2p_lightning.runs.checkpoint import FOLDER
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
    """A finished run, of a size that can be read a thousand times."""
    return train_run(tmp_path_factory.mktemp("small") / "run", "model=tiny", "unet.widths=[8,16,16]", "val_every=0")


@pytest.mark.parametrize("kind", ["*.sha256", "*.ckpt"])
def test_a_flip_in_a_checkpoint_is_noticed(small, kind):
    assert not undetected(small, sorted((small / FOLDER).glob(kind))[-1])


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


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_a_run_with_damaged_json_is_one_line_or_no_state(small, tmp_path, refused, text):
    folder = shutil.copytree(small, tmp_path / "run")
    for name in ("config.json", "status.json"):
        (folder / name).write_text(text)
    code, line = refused(export.main, folder, tmp_path / "model")
    assert code == 6 and f"{folder}/config.json" in line
    assert run_folder.read_status(folder)["state"] == "failed"
