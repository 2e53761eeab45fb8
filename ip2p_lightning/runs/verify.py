"""Whether what lies in a folder is what was written there: a run, an exported pipeline, a built dataset, a cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ip2p_lightning.errors import DamagedError, UserError
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.checkpoint import IDENTITY, sidecar
from ip2p_lightning.runs.folder import CONFIG, STATUS
from ip2p_lightning.system.checksums import SUMS, beginning_changed, damaged_files, read_sealed

Verdict = tuple[Path, str | None]  # a file or folder, and what is wrong with it
SEALED = (CONFIG, STATUS, "data.json", f"{checkpoint.FOLDER}/{IDENTITY}")


def verified(path: Path) -> Iterator[Verdict]:
    """A verdict on each part of what lies at `path`.

    Raises:
        UserError: nothing there that could be verified.
    """
    from ip2p_lightning.data.latent_cache import store as caches

    if path.is_file() and (path.suffix == ".ckpt" or sidecar(path).exists()):
        return iter([(path, checkpoint.damage(path))])
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    kinds = {CONFIG: run, SUMS: pipeline, "dataset.json": dataset}
    kind = next((kinds[name] for name in kinds if (path / name).exists()), None)
    kind = kind or (run if checkpoint.checkpoints(path) else caches.verified if caches.is_cache(path) else None)
    if kind is None:
        raise UserError(
            f"{path}: nothing to verify; give a run's folder, a .ckpt file, an export that has {SUMS}, a built dataset "
            "or a cache_dir"
        )
    return kind(path)


def run(folder: Path) -> Iterator[Verdict]:
    """Checkpoints by their sidecars, the sealed JSON, and what the run recorded when it last ended."""
    for path in checkpoint.checkpoints(folder):
        yield path, checkpoint.damage(path)
    status: dict[str, object] = {}
    for path in (folder / name for name in SEALED):
        try:
            content = read_sealed(path, strict=True)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            yield path, str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
            continue
        status = content if path.name == STATUS else status
        yield path, None
    for name, known in dict(status.get("files") or {}).items():
        yield folder / name, "its bytes have changed" if beginning_changed(folder / name, known) else None


def pipeline(folder: Path) -> Iterator[Verdict]:
    """All files of an export by its sums."""
    wrong = damaged_files(folder)
    yield from ((folder / name, reason) for name, reason in wrong.items())
    if not wrong:
        yield folder, None


def dataset(folder: Path) -> Iterator[Verdict]:
    """All files of a built dataset by its manifest."""
    from ip2p_lightning.curation.verify import verify

    try:
        verify(folder)
    except DamagedError as error:
        yield folder, str(error)
    else:
        yield folder, None
