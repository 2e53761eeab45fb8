"""Real small disks, and processes that may not write everywhere: where tests run as root, as they do in containers."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A tmpfs of that size on `folder`; the test is skipped where this process may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    if os.getuid() or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """A file that takes all the space of `folder`'s disk but `leave` bytes."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return path


def obey_permissions() -> None:
    """Take root's rights over files from this process for good: modes then hold for it as for anybody else."""
    if os.getuid():
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of the first 32 capabilities, then the others
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, rights):
        raise OSError(ctypes.get_errno(), "capget")
    for place in range(3):
        rights[place] &= ~0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    if libc.capset(header, rights):
        raise OSError(ctypes.get_errno(), "capset")


def bit_flips(path: Path, count: int, seed: int = 0) -> Iterator[str]:
    """Flip one bit of a file's bytes, `count` times; each time the place, and the file is whole again afterwards."""
    rng, data = random.Random(seed), path.read_bytes()
    for _ in range(count):
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        yield f"{path.name}, byte {place}, bit {bit}"
    path.write_bytes(data)
