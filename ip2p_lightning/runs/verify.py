"""Whether what lies in a folder is what was written there: a run, an exported pipeline, a built dataset, a cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ip2p_lightning.errors import DamagedError
from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs.checkpoint import IDENTITY
from ip2p_lightning.runs.folder import CONFIG, STATUS
from ip2p_lightning.system.checksums import beginning_changed, read_sealed

Verdict = tuple[Path, str | None]  # a file or folder, and what is wrong with it
SEALED = (CONFIG, STATUS, "data.json", f"{checkpoint.FOLDER}/{IDENTITY}")


def verify_run(folder: Path) -> Iterator[Verdict]:
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
