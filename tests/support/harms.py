"""What may have happened to a run's newest checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ip2p_lightning.runs.checkpoint import checkpoints, checksum_file
from tests.support.disks import bit_flips


def _cut(percent: int) -> Callable[[Path, Path], None]:
    return lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size * percent // 100])


def _zeros(path: Path, other: Path) -> None:
    data = path.read_bytes()
    place = next(i for i in range(len(data) // 2, len(data), 4096) if any(data[i : i + 4096]))
    path.write_bytes(data[:place] + bytes(4096) + data[place + 4096 :])


def _flip(path: Path, other: Path) -> None:
    next(bit_flips(path, 1))


def _dangling(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def _folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def _copied(path: Path, from_: Path) -> None:
    shutil.copy(from_, path)
    shutil.copy(checksum_file(from_), checksum_file(path))


# (its path, another run's folder): does the harm
HARMS: dict[str, Callable[[Path, Path], None]] = {
    "empty": _cut(0),
    "cut at 10 %": _cut(10),
    "cut at 50 %": _cut(50),
    "cut at 99 %": _cut(99),
    "4 KB of zeros": _zeros,
    "one bit": _flip,
    "no checksum file": lambda path, other: checksum_file(path).unlink(),
    "a dangling link": _dangling,
    "a folder in its place": _folder,
    "another step's file and checksum file": lambda path, other: _copied(path, checkpoints(path.parents[1])[1]),
    "another run's file and checksum file": lambda path, other: _copied(path, other / path.parent.name / path.name),
}
