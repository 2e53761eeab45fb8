"""Loading a `datasets` dataset: from the hub, from ``save_to_disk``, from Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ip2p_lightning.errors import DataError, UserError

if TYPE_CHECKING:
    from datasets import Dataset


def load_tables(name: str, revision: str | None) -> dict[str, Dataset]:
    """Every split of a dataset on disk or on the hub. Raises `UserError` if it cannot be found or loaded."""
    import datasets

    folder = Path(name).expanduser()
    try:
        if not folder.exists():
            loaded = datasets.load_dataset(name, revision=revision)
        elif any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json", "dataset_info.json")):
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = _parquet(folder)
    except UserError:
        raise
    except Exception as error:  # the hub's client, fsspec and Arrow each have their own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        how = (
            "is the folder complete?"
            if folder.exists()
            else f"on a machine with internet: datasets.load_dataset('{name}').save_to_disk(DIR); then data.name=DIR"
        )
        raise UserError(f"dataset '{name}' could not be loaded: {reason}; {how}") from None
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _parquet(folder: Path) -> Any:
    import datasets

    files: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        files.setdefault(_split_in_name(path.relative_to(folder)), []).append(str(path))
    if not files:
        raise UserError(f"dataset {folder}: neither saved by save_to_disk nor a folder of Parquet files")
    return datasets.DatasetDict({s: datasets.Dataset.from_parquet(paths) for s, paths in files.items()})


def _split_in_name(path: Path) -> str:
    for part in path.parts:
        for split, words in {"test": ("test",), "val": ("val", "dev")}.items():
            if part.lower().startswith(words):
                return split
    return "train"


def own_split(tables: dict[str, Any], split: str) -> str | None:
    """The name under which the dataset holds our `split`, or None."""
    names = {"train": ("train",), "val": ("val", "validation", "valid", "dev"), "test": ("test",)}[split]
    return next((name for name in names if name in tables), None)


def train_split(tables: dict[str, Any], name: str) -> str:
    """The split to divide. Raises `DataError` if there is none."""
    if "train" not in tables:
        raise DataError(f"{name}: no split 'train', it has {', '.join(tables)}")
    return "train"
