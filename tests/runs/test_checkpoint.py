"""Checkpoints are complete or absent, and damage is always noticed."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ip2p_lightning.errors import DamagedError, SecurityError, StorageError, UserError
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.system.files import TEMPORARY, sweep_temporaries
from ip2p_lightning.training.callbacks import checkpointing
from tests.support.disks import bit_flips


@pytest.fixture
def run(tmp_path):
    (tmp_path / checkpoint.FOLDER).mkdir()
    for step in (10, 20):
        content = {"w": torch.full((64, 64), float(step)), "n": [1, "x"]}
        checkpoint.save(content, tmp_path / checkpoint.FOLDER / f"step-{step:06d}.ckpt")
    return tmp_path


def newest(run):
    return run / checkpoint.FOLDER / "step-000020.ckpt"


def test_every_single_bit_flip_is_noticed(run):
    for _ in bit_flips(newest(run), 100):
        with pytest.raises(DamagedError):
            checkpoint.load(newest(run))


def test_saving_over_a_checkpoint_keeps_the_old_one_until_the_new_one_is_there(run, monkeypatch):
    def full(count):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "on_write", full)
    with pytest.raises(StorageError, match="No space left"):
        checkpoint.save({"w": torch.zeros(64, 64)}, newest(run))
    monkeypatch.undo()
    content = checkpoint.load(newest(run))
    assert content["n"] == [1, "x"] and content["w"].eq(20).all() and not list(newest(run).parent.glob(f"{TEMPORARY}*"))


def test_code_in_a_checkpoint_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/canary",)

    path = tmp_path / "step-000001.ckpt"
    checkpoint.save({"w": Evil()}, path)
    with pytest.raises(SecurityError):
        checkpoint.load(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("path", ["http://x/y.ckpt", "s3://b/y.ckpt", "file:///y.ckpt", "gone.ckpt"])
def test_addresses_and_missing_files_are_refused(path):
    with pytest.raises(SecurityError if "://" in path else UserError, match=r"local files|no checkpoint at"):
        checkpoint.load(path)


def test_temporaries_of_dead_writers_are_swept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    (tmp_path / f"{TEMPORARY}{dead.pid}-a").write_bytes(b"")
    (tmp_path / f"{TEMPORARY}{os.getppid()}-b").write_bytes(b"")
    assert sweep_temporaries(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == [f"{TEMPORARY}{os.getppid()}-b"]


def test_fifty_checkpoints_leave_two_and_no_open_file(tmp_path):
    (tmp_path / checkpoint.FOLDER).mkdir()
    keeper = checkpointing.Checkpoints(tmp_path, keep=2)
    handles, trainer = set(), SimpleNamespace(is_global_zero=True)
    trainer.save_checkpoint = lambda path: checkpoint.save({"n": trainer.global_step}, path)
    for trainer.global_step in range(50):
        keeper.save(trainer)
        handles.add(len(list(Path("/proc/self/fd").iterdir())))
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-000049.ckpt", "step-000048.ckpt"]
    assert len(list((tmp_path / checkpoint.FOLDER).iterdir())) == 4 and max(handles) == min(handles)


def test_saving_does_not_double_the_memory(tmp_path):
    script = """
import resource, torch, ip2p_lightning.runs.checkpoint as ck
w = {"w": [torch.ones(8_000_000) for _ in range(8)]}  # 8 x 32 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ck.save(w, __import__("pathlib").Path(r"%s") / "step-000001.ckpt")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    grown = subprocess.run([sys.executable, "-c", script % tmp_path], capture_output=True, text=True, check=True)
    assert int(grown.stdout) <= 64 + 32  # megabytes: a buffer and the largest tensor
