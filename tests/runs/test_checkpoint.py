"""Checkpoints are complete or absent, and damage is always noticed."""

import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ip2p_lightning.errors import DamagedError, SecurityError, StorageError, UserError
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.system.files import TEMPORARY, sweep_temporaries, write_atomic
from ip2p_lightning.training.callbacks import checkpointing


@pytest.fixture
def run(tmp_path):
    (tmp_path / checkpoint.FOLDER).mkdir()
    for step in (10, 20):
        checkpoint.save(
            {"w": torch.full((64, 64), float(step)), "n": [1, "x"]},
            tmp_path / checkpoint.FOLDER / f"step-{step:06d}.ckpt",
        )
    return tmp_path


def newest(run):
    return run / checkpoint.FOLDER / "step-000020.ckpt"


def test_what_is_saved_is_what_is_loaded(run):
    content = checkpoint.load(newest(run))
    assert content["n"] == [1, "x"] and content["w"].eq(20).all()
    assert not list((run / checkpoint.FOLDER).glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize(
    "harm",
    ["cut 0", "cut 10", "cut 50", "cut 99", "zeros", "flip", "no sidecar", "empty", "dangling", "folder", "other run"],
)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run, harm, tmp_path):
    path = newest(run)
    data = path.read_bytes()
    if harm.startswith("cut"):
        path.write_bytes(data[: len(data) * int(harm.split()[1]) // 100])
    elif harm == "zeros":
        path.write_bytes(data[:2000] + bytes(4096) + data[6096:])
    elif harm == "flip":
        path.write_bytes(bytes([*data[:3000], data[3000] ^ 1, *data[3001:]]))
    elif harm == "no sidecar":
        checkpoint.checksum_file(path).unlink()
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm in ("dangling", "folder"):
        path.unlink()
        path.symlink_to(tmp_path / "gone") if harm == "dangling" else path.mkdir()
    else:
        path.write_bytes((run / checkpoint.FOLDER / "step-000010.ckpt").read_bytes())
    with pytest.warns(UserWarning, match="step-000020"):
        assert checkpoint.newest_valid(run).name == "step-000010.ckpt"
    assert (run / checkpoint.FOLDER / "step-000020.ckpt.corrupt").exists() or harm == "dangling"


def test_every_single_bit_flip_is_noticed(run):
    path, rng = newest(run), random.Random(0)
    data = path.read_bytes()
    for _ in range(100):
        place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        with pytest.raises(DamagedError):
            checkpoint.load(path)


def test_nothing_left_intact_is_said(run):
    for path in checkpoint.checkpoints(run):
        path.write_bytes(b"x")
    with pytest.warns(UserWarning), pytest.raises(DamagedError, match="no undamaged checkpoint"):
        checkpoint.newest_valid(run)


def test_saving_over_a_checkpoint_keeps_the_old_one_until_the_new_one_is_there(run, monkeypatch):
    def full(count):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "on_write", full)
    with pytest.raises(StorageError, match="No space left"):
        checkpoint.save({"w": torch.zeros(64, 64)}, newest(run))
    monkeypatch.undo()
    assert checkpoint.load(newest(run))["w"].eq(20).all()


def test_code_in_a_checkpoint_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/canary",)

    path = tmp_path / "step-000001.ckpt"
    checkpoint.save({"w": Evil()}, path)
    with pytest.raises(SecurityError):
        checkpoint.load(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("path", ["http://x/y.ckpt", "s3://b/y.ckpt", "file:///y.ckpt"])
def test_addresses_are_refused(path):
    with pytest.raises(SecurityError):
        checkpoint.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "no.ckpt")


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def full(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        write_atomic(path, full)
    assert path.read_bytes() == b"old" and sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_temporaries_of_dead_writers_are_swept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    (tmp_path / f"{TEMPORARY}{dead.pid}-a").write_bytes(b"")
    (tmp_path / f"{TEMPORARY}{os.getppid()}-b").write_bytes(b"")
    assert sweep_temporaries(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == [f"{TEMPORARY}{os.getppid()}-b"]


def test_five_hundred_checkpoints_leave_two_and_no_open_file(tmp_path):
    (tmp_path / checkpoint.FOLDER).mkdir()
    keeper = checkpointing.Checkpoints(tmp_path, keep=2)
    trainer = SimpleNamespace(
        is_global_zero=True, save_checkpoint=lambda path: checkpoint.save({"n": trainer.global_step}, path)
    )
    handles = set()
    for trainer.global_step in range(500):
        keeper.save(trainer)
        handles.add(len(list(Path("/proc/self/fd").iterdir())))
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-000499.ckpt", "step-000498.ckpt"]
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
