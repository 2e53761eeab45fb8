"""Hub datasets, from disk: columns, splits, instructions, and what is said when there is none."""

import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ip2p_lightning.data.sources.base import EmptySplitError
from ip2p_lightning.data.sources.hub import KNOWN, HubDataset
from ip2p_lightning.data.sources.image_files import warn_once
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.rng import numpy_rng

SPLITS = ("train", "val", "test")


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def png(seed: int, kind: str = "PNG") -> dict[str, bytes]:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, kind)
    return {"bytes": file.getvalue()}


def table(count: int, names: tuple[str, str, str] = ("original", "edited", "prompt"), offset: int = 0):
    rows = [(png(offset + n), png(offset + n + 1000), f"say {n // 2}") for n in range(count)]
    kinds = (datasets.Image(), datasets.Image(), datasets.Value("string"))
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(zip(names, kinds, strict=True)))


def ids(source: HubDataset, split: str) -> list[str]:
    try:
        pairs = source.pairs(split)
    except EmptySplitError:
        return []
    return [pairs.id(i) for i in range(len(pairs))]


def test_saved_dataset_is_divided_by_hash(tmp_path) -> None:
    table(40).save_to_disk(str(tmp_path / "d"))
    source = HubDataset(str(tmp_path / "d"))
    splits = [ids(source, split) for split in SPLITS]
    assert sorted(name for names in splits for name in names) == sorted(f"train/{n}" for n in range(40)) and all(splits)
    pairs = source.pairs("test")
    row = int(pairs.id(0).split("/")[1])
    original, edited = pairs.pair(0, numpy_rng(0), View(None))
    assert np.array_equal(np.rint(original * 255), pixels(row))
    assert np.array_equal(np.rint(edited * 255), pixels(row + 1000))
    assert pairs.prompt(0) == f"say {row // 2}"
    assert HubDataset(str(tmp_path / "d"), prompts="pool").pairs("test").prompt(0) is None


def test_a_group_stays_together(tmp_path) -> None:
    table(40).save_to_disk(str(tmp_path / "d"))
    source = HubDataset(str(tmp_path / "d"), group="prompt", val=0.3, test=0.3)
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match="rows of one 'prompt' are in one split.*not checked"):
        groups = [{int(name.split("/")[1]) // 2 for name in ids(source, split)} for split in SPLITS]
    assert sum(map(len, groups)) == 20


def test_the_edits_of_one_photo_stay_together(tmp_path) -> None:
    rows = [(png(n % 15, ("PNG", "BMP", "TIFF")[n // 15]), png(1000 + n), "x") for n in range(45)]
    columns = dict(zip(("original", "edited", "prompt"), zip(*rows, strict=True), strict=True))
    datasets.Dataset.from_dict(columns, features=table(3).features).save_to_disk(str(tmp_path / "d"))
    photos = [
        {int(n.split("/")[1]) % 15 for n in ids(HubDataset(str(tmp_path / "d"), val=0.3, test=0.3), s)} for s in SPLITS
    ]
    assert sum(map(len, photos)) == 15 and all(photos)


@pytest.mark.parametrize("kind", ["structs", "bytes only", "raw", "large"])
def test_plain_parquet_columns_are_read(tmp_path, kind) -> None:
    values = [{"original": png(n)["bytes"], "edited": png(n + 50)["bytes"]} for n in range(3)]
    extra = {"path": None} if kind == "structs" else {}
    if kind in ("structs", "bytes only"):
        values = [{side: {"bytes": content, **extra} for side, content in row.items()} for row in values]
    made = pa.Table.from_pylist(values)
    if kind == "large":
        made = made.cast(pa.schema([(name, pa.large_binary()) for name in made.column_names]))
    pq.write_table(made, tmp_path / "train.parquet")
    (tmp_path / "notes.txt").write_text("x")
    warn_once.cache_clear()
    with pytest.warns(UserWarning, match=r"1 file is not used: notes\.txt"):
        pairs = HubDataset(str(tmp_path), val=0, test=0).pairs("train")
    original, edited = pairs.pair(2, numpy_rng(0), View(None))
    assert np.array_equal(np.rint(original * 255), pixels(2)) and np.array_equal(np.rint(edited * 255), pixels(52))
    assert pairs.sources(2) == (png(2)["bytes"], png(52)["bytes"])


def test_own_splits_are_used(tmp_path) -> None:
    datasets.DatasetDict({"train": table(8), "validation": table(3, offset=50)}).save_to_disk(str(tmp_path / "d"))
    source = HubDataset(str(tmp_path / "d"))
    assert ids(source, "val") == ["validation/0", "validation/1", "validation/2"]
    assert len(ids(source, "train")) + len(ids(source, "test")) == 8
    assert len(ids(HubDataset(str(tmp_path / "d"), test=0), "train")) == 8


def test_parquet_folder(tmp_path) -> None:
    names = KNOWN["instruction-tuning-sd/low-level-image-proc"]
    columns = (names.original, names.edited, names.prompt)
    (tmp_path / "data").mkdir()
    table(6, columns).to_parquet(str(tmp_path / "data" / "train-00000.parquet"))
    table(2, columns, 50).to_parquet(str(tmp_path / "data" / "test-00000.parquet"))
    source = HubDataset(str(tmp_path), *columns, val=0)
    assert len(ids(source, "train")) == 6 and ids(source, "test") == ["test/0", "test/1"]


def test_refusals(tmp_path) -> None:
    table(6).save_to_disk(str(tmp_path / "d"))
    where, known = str(tmp_path / "d"), "it has original, edited, prompt; did you mean 'original'"
    with pytest.raises(DataError, match=f"no column 'orignal', {known}"):
        HubDataset(where, original="orignal").pairs("train")
    with pytest.raises(DataError, match="no column 'say'"):
        HubDataset(where, prompt="say").pairs("train")
    with pytest.raises(DataError, match="'prompt' holds Value, not images"):
        HubDataset(where, edited="prompt").pairs("train")
    with pytest.raises(DataError, match="no row for 'val'"):
        HubDataset(where, val=0).pairs("val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="Parquet"):
        HubDataset(str(tmp_path / "empty")).pairs("train")
    with pytest.raises(UserError, match="own or pool"):
        HubDataset(where, prompts="mine")


def test_offline_says_how(monkeypatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\n(offline)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"instruction-tuning-sd/cartoonization.*save_to_disk") as caught:
        HubDataset("instruction-tuning-sd/cartoonization").pairs("train")
    assert "\n" not in str(caught.value)


def test_a_bad_image_is_named(tmp_path) -> None:
    rows = {"original": [png(0), {"bytes": b"no image"}, png(2)], "edited": [png(5)] * 3, "prompt": ["x"] * 3}
    datasets.Dataset.from_dict(rows, features=table(3).features).save_to_disk(str(tmp_path / "d"))
    pairs = HubDataset(str(tmp_path / "d"), val=0, test=0).pairs("train")
    pairs.pair(0, numpy_rng(0), View(8))
    with pytest.raises(DataError, match=r"train/1, column 'original': not an image"):
        pairs.pair(1, numpy_rng(0), View(8))
