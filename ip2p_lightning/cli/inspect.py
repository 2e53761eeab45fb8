"""``ip2p-inspect``: digests of a run's newest checkpoint, and checksums of what is stored."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.cli.parser import Parser, run
from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.checkpoint import checksum_file
from ip2p_lightning.system.checksums import SUMS, damaged_files

EXAMPLES = """
examples:
  ip2p-inspect digest runs/demo          sha256 over weights, averaged weights, optimizer and schedule
  ip2p-inspect verify runs/demo          check its checkpoints against their sha256
  ip2p-inspect verify exported/demo      all files of an export; likewise a built dataset, or runs/cache
"""
Verdict = tuple[Path, str | None]  # a file or folder, and what is wrong with it
PARTS: dict[str, tuple[str, Any]] = {"raw": ("state_dict", {}), "ema": ("ema", {})}  # key and default in a checkpoint
PARTS |= {"optimizer": ("optimizer_states", []), "schedule": ("lr_schedulers", [])}


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    parser = Parser("ip2p-inspect", "Digest a run's newest checkpoint, or verify what is stored.", EXAMPLES)
    parser.add_argument("action", choices=["digest", "verify"])
    parser.add_argument("path", type=Path, help="a run's folder or a checkpoint; to verify also others")
    return run(parser, lambda args: {"digest": _digest, "verify": _verify}[args.action](args.path), argv)


def _digest(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a run's folder or a .ckpt file")
    newest = next(iter(checkpoint.checkpoints(path)), None) if path.is_dir() else path
    if newest is None:
        raise UserError(f"{path}: no checkpoints; give a run's folder or a .ckpt file")
    parts = digests(checkpoint.load(newest))
    for name in PARTS:
        print(f"{parts[name]}  {name}")
    print(f"{parts['all']}  {newest}")


def _verify(path: Path) -> None:
    verdicts = list(verified(path))
    for part, wrong in verdicts:
        print(f"{wrong or 'ok'}: {part}")
    broken = [part for part, wrong in verdicts if wrong]
    if broken:
        raise DamagedError(f"{len(broken)} of {len(verdicts)} parts of {path} are damaged, first {broken[0]}")


def digests(content: dict[str, Any]) -> dict[str, str]:
    """sha256 over names, shapes, dtypes and bytes of each part of a checkpoint, and over all of them (``all``)."""
    found = {name: _hash(content.get(key, empty)) for name, (key, empty) in PARTS.items()}
    return found | {"all": _hash(found | {"step": content.get("global_step")})}


def _hash(part: Any) -> str:
    whole = hashlib.sha256()
    for name, piece in _leaves(part):
        whole.update(name.encode())
        whole.update(piece)
    return whole.hexdigest()


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, bytes]]:
    import torch

    if isinstance(node, torch.Tensor):
        tensor = node.detach().cpu().contiguous()
        yield f"{path}{tuple(tensor.shape)}{tensor.dtype}", tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(node, dict):
        for key in sorted(node, key=str):
            yield from _leaves(node[key], f"{path}/{key}")
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{path}/{i}")
    else:
        yield path, repr(node).encode()


def verified(path: Path) -> Iterator[Verdict]:
    """Check each part of a run, checkpoint, export, dataset or cache. Raises UserError where `path` is none of them."""
    from ip2p_lightning.data.latent_cache import store as caches

    if path.is_file() and (path.suffix == ".ckpt" or checksum_file(path).exists()):
        return iter([(path, checkpoint.damage(path))])
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if checkpoint.checkpoints(path):
        return ((found, checkpoint.damage(found)) for found in checkpoint.checkpoints(path))
    if (path / SUMS).exists():
        return export(path)
    if (path / "dataset.json").exists():
        return dataset(path)
    if caches.is_cache(path):
        return caches.verified(path)
    raise UserError(
        f"{path}: nothing to verify; give a run's folder with checkpoints, a .ckpt file, an export that has {SUMS}, a "
        "built dataset or a cache_dir"
    )


def export(folder: Path) -> Iterator[Verdict]:
    """All files of an export by its SHA256SUMS."""
    yield from [(folder / name, reason) for name, reason in damaged_files(folder).items()] or [(folder, None)]


def dataset(folder: Path) -> Iterator[Verdict]:
    """All files of a built dataset by its manifest."""
    from ip2p_lightning.curation.verify import verify

    wrong = None
    try:
        verify(folder)
    except DamagedError as error:
        wrong = str(error)
    yield folder, wrong


if __name__ == "__main__":
    sys.exit(main())
