"""Whether a cache holds what was written to it. Training checks each entry too, and makes a bad one anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ip2p_lightning.caching.space import DESCRIPTION, Space
from ip2p_lightning.errors import DamagedError
from ip2p_lightning.system.file_digests import MEMO, Digests


def is_cache(folder: Path) -> bool:
    """Whether a folder holds caches, as ``cache_dir`` does."""
    return any(Path(folder).glob(f"*/{DESCRIPTION}"))


def verified(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Each part of a folder of caches, and what is wrong with it."""
    for path in sorted(Path(root).glob(f"*/{DESCRIPTION}")):
        yield path.parent, _space(path.parent)
    log = Digests(Path(root) / MEMO).memo
    if log is not None and log.path.exists():
        log.refresh()
        yield log.path, f"{log.damaged} damaged records" if log.damaged else None


def _space(folder: Path) -> str | None:
    try:
        space = Space.opened(folder)
    except DamagedError as error:
        return str(error)
    keys = space.index.keys()
    bad = sum(space.get(key) is None for key in keys)
    lost = space.index.damaged
    return f"{bad} of {len(keys)} entries and {lost} records of the index are damaged" if bad or lost else None
