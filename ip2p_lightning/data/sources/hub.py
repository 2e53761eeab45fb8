"""Datasets of the Hugging Face hub: by id, saved to disk, or as a folder of Parquet files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ip2p_lightning.data.image import Image, open_image
from ip2p_lightning.data.sources.base import EmptySplitError, Maker, Split, checked_split, viewed_pair
from ip2p_lightning.data.sources.fingerprints import file_hashes, hashed, text_hash
from ip2p_lightning.data.sources.image_files import name_left_out, warn_once
from ip2p_lightning.data.sources.splits import checked_fractions, empty_split, split_of_group, splits_of_pairs
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError, UserError, suggest
from ip2p_lightning.system.file_digests import Digests

if TYPE_CHECKING:
    from datasets import Dataset


class Columns(NamedTuple):
    """Where a dataset keeps what."""

    original: str = "original"
    edited: str = "edited"
    prompt: str | None = "prompt"
    group: str | None = None


KNOWN = {
    "instruction-tuning-sd/cartoonization": Columns("original_image", "cartoonized_image", "edit_prompt"),
    "instruction-tuning-sd/low-level-image-proc": Columns("input_image", "ground_truth_image", "instruction"),
    "timbrooks/instructpix2pix-clip-filtered": Columns(
        "original_image", "edited_image", "edit_prompt", "original_prompt"
    ),
    "fusing/instructpix2pix-1000-samples": Columns("input_image", "edited_image", "edit_prompt"),
}
"""Datasets whose columns need not be given."""


@dataclass(eq=False)
class HubDataset:
    """Pairs in a `datasets` dataset.

    A hub split named as ours (or "validation", or "dev") is used as it is; without one, "train" is divided by the hash
    of its photos' pixels, or of the `group` column. Columns hold images, their encoded bytes, or structs with `bytes`.

    name: a hub id such as ``instruction-tuning-sd/cartoonization``, a folder written by ``save_to_disk``, or a folder
        of Parquet files (their names begin with the split's, else all are train).
    original: column of the image before the edit; None: known for four datasets, else "original".
    edited: column of the image after it; None: as above, else "edited".
    prompt: column of the instruction; None: as above, else "prompt" where there is one.
    group: column whose equal values keep rows in one split; None: as above, else rows that share an image.
    prompts: "own" uses the dataset's instructions, "pool" the task's.
    revision: commit, tag or branch of a hub dataset; None: its newest.
    val, test: fractions of "train" for validation and testing where there is no such split, within [0, 1).
    """

    name: str
    original: str | None = None
    edited: str | None = None
    prompt: str | None = None
    group: str | None = None
    prompts: Literal["own", "pool"] = "own"
    revision: str | None = None
    val: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        checked_fractions("HubDataset", self.val, self.test)
        if self.prompts not in ("own", "pool"):
            raise UserError(f"HubDataset.prompts={self.prompts}: give own or pool")
        known = KNOWN.get(self.name, Columns())
        given = (self.original, self.edited, self.prompt, self.group)
        self.columns = Columns(*(mine or theirs for mine, theirs in zip(given, known, strict=True)))
        self._tables: dict[str, Dataset] = {}
        self._places: list[Split] = []

    def pairs(self, split: Split, make: Maker | None = None) -> HubPairs:
        """The rows of a split. Raises UserError: the dataset cannot be found or loaded (offline, for instance);
        DataError: a column is missing or holds no images, or the split is empty.
        """
        checked_split(split)
        self._tables = self._tables or load_tables(self.name, self.revision)
        own = own_split(self._tables, split)
        if not own and "train" not in self._tables:
            raise EmptySplitError(f"{self.name}: no split 'train', it has {', '.join(self._tables)}")
        name = own or "train"
        table, columns = self.undecoded(self._tables[name])
        rows = self._rows(table, split, own is not None)
        if not len(rows) and own:
            raise EmptySplitError(f"{self.name}: no row for split '{split}'")
        if not len(rows):
            raise empty_split(self.name, "row", split, "splits of its own")
        return HubPairs(table, rows, columns, self.name, name)

    def undecoded(self, table: Dataset) -> tuple[Dataset, Columns]:
        """The columns needed, images undecoded, and their names. Raises DataError: one is missing or no image."""
        import datasets

        columns = self._checked(table)
        table = table.select_columns(list(dict.fromkeys(filter(None, columns))))
        for column in (columns.original, columns.edited):
            table = table.cast_column(column, datasets.Image(decode=False))
        return table, columns

    def _rows(self, table: Dataset, split: Split, own: bool) -> np.ndarray:
        """Row numbers of a split: all of its own table, less what train has to give to splits without a table."""
        taken = {s: 0.0 if own_split(self._tables, s) else getattr(self, s) for s in ("val", "test")}
        if own and (split != "train" or not any(taken.values())):
            return np.arange(len(table))
        if not self._places:
            self._places = self._divided(table, taken["val"], taken["test"])
        return np.array([i for i, place in enumerate(self._places) if place == split], dtype=np.int64)

    def _divided(self, table: Dataset, val: float, test: float) -> list[Split]:
        group = self.columns.group
        if group:
            warn_once(f"{self.name}: rows of one '{group}' are in one split; copies of a photo in others: not checked")
            return [split_of_group(str(value), val, test) for value in table[group]]
        hashes = list(hashed((_stored(row, column) for row in table for column in self.columns[:2]), keep=True))
        return splits_of_pairs(list(zip(hashes[::2], hashes[1::2], strict=True)), val, test)

    def _checked(self, table: Dataset) -> Columns:
        columns = self.columns
        optional = self.prompt is None and self.name not in KNOWN
        if self.prompts == "pool" or (optional and columns.prompt not in table.column_names):
            columns = columns._replace(prompt=None)
        for column in filter(None, columns):
            if column not in table.column_names:
                near = suggest(column, table.column_names)
                raise DataError(f"{self.name}: no column '{column}', it has {', '.join(table.column_names)}{near}")
        for column in (columns.original, columns.edited):
            feature = table.features[column]
            encoded = isinstance(feature, dict) and "bytes" in feature and feature.keys() <= {"bytes", "path"}
            kind = "Image" if encoded else getattr(feature, "dtype", "") or type(feature).__name__
            if kind not in ("Image", "binary", "large_binary", "PIL.Image.Image"):
                raise DataError(f"{self.name}: column '{column}' holds {type(feature).__name__}, not images")
        return columns


class HubPairs:
    """Rows of a dataset's split."""

    def __init__(self, table: Dataset, rows: np.ndarray, columns: Columns, name: str, split: str) -> None:
        self._table, self._rows, self._columns, self._name, self._split = table, rows, columns, name, split
        self._prompts = table.select_columns([columns.prompt]) if columns.prompt else None  # asked without the images

    def __len__(self) -> int:
        return len(self._rows)

    def id(self, i: int) -> str:
        """Split and row number in the dataset."""
        return f"{self._split}/{int(self._rows[i])}"

    def prompt(self, i: int) -> str | None:
        """The row's instruction, if it has one and it is wanted."""
        if self._prompts is None:
            return None
        value = self._prompts[int(self._rows[i])][self._columns.prompt]
        return value if isinstance(value, str) and value.strip() else None

    def pair(self, i: int, rng: np.random.Generator, view: View) -> tuple[Image, Image]:
        """``(original, edited)``; `DataError` naming the row if one cannot be decoded or the sizes differ."""
        row, name = self._table[int(self._rows[i])], f"{self._name}, {self.id(i)}"
        images = [_decoded(row[column], f"{name}, column '{column}'") for column in self._columns[:2]]
        return viewed_pair(images, name, rng, view)

    def sources(self, i: int) -> tuple[Path | bytes, ...]:
        row = self._table[int(self._rows[i])]
        return tuple(_stored(row, column) for column in self._columns[:2])

    def contents(self, digests: Digests) -> dict[str, str]:
        """Hashes of the Arrow files behind the rows, and of which rows they are."""
        files = [entry["filename"] for entry in self._table.cache_files]
        rows = {f"rows of {self._split}": text_hash(self._rows.tolist(), self._columns)}
        return rows | file_hashes({f"file {number}": path for number, path in enumerate(files)}, digests)


def _stored(row: dict[str, Any], column: str) -> Path | bytes:
    image = row[column] or {}
    return image.get("bytes") or (Path(image["path"]) if image.get("path") else b"")


def _decoded(stored: dict[str, Any] | None, where: str) -> np.ndarray:
    content = stored and (stored.get("bytes") or stored.get("path"))
    if not content:
        raise DataError(f"{where}: no image")
    return open_image(content, name=where)


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
        how = f"on a machine with internet: datasets.load_dataset('{name}').save_to_disk(DIR); then data.name=DIR"
        how = "is the folder complete?" if folder.exists() else how
        raise UserError(f"dataset '{name}' could not be loaded: {reason}; {how}") from None
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _parquet(folder: Path) -> Any:
    import datasets

    files: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        files.setdefault(_split_in_name(path.relative_to(folder)), []).append(str(path))
    others = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    names = [str(name) for name in others if name.suffix != ".parquet" and not any(p[0] == "." for p in name.parts)]
    if not files:
        raise UserError(f"dataset {folder}: neither saved by save_to_disk nor a folder of Parquet files")
    name_left_out(folder, names)
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
