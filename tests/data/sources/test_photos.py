"""Photos: fixed splits of the installed ones, hashed splits of a folder's, and which side is made."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.data.sources.photos import Photos
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.rng import numpy_rng


class Negative:
    """A stand-in for a degradation."""

    def __call__(self, image, rng):
        return 1 - image


class Teacher(Negative):
    makes = "edited"


def write_photos(root: Path, count: int) -> None:
    for n in range(count):
        pixels = np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (root / f"sub{n % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / f"sub{n % 2}" / f"{n}.png")


def ids(source: Photos, split: str) -> list[str]:
    pairs = source.pairs(split, Negative())
    return [pairs.id(i) for i in range(len(pairs))]


def test_installed_photos_have_fixed_disjoint_splits() -> None:
    splits = {split: ids(Photos(), split) for split in ("train", "val", "test")}
    assert {split: len(names) for split, names in splits.items()} == {"train": 6, "val": 1, "test": 2}
    assert len({name for names in splits.values() for name in names}) == 9
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= set(splits["train"])


def test_scikit_image_is_not_imported() -> None:
    code = (
        "import sys; from ip2p_lightning.data.sources import hub, photos; photos.Photos().pairs('val', abs).id(0)\n"
        "assert not {'skimage', 'datasets', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_degradations_make_the_original_and_teachers_the_edited() -> None:
    view = View(32)
    a, b = Photos().pairs("val", Negative()).pair(0, numpy_rng(1), view)
    c, d = Photos().pairs("val", Teacher()).pair(0, numpy_rng(1), view)
    assert np.array_equal(a, d) and np.array_equal(b, c) and np.allclose(a, 1 - b) and not np.array_equal(a, b)


def test_a_folder_is_split_by_content(tmp_path) -> None:
    write_photos(tmp_path / "a", 60)
    splits = {split: ids(Photos(str(tmp_path / "a")), split) for split in ("train", "val", "test")}
    assert len({name for names in splits.values() for name in names}) == 60 and all(splits.values())
    assert len(splits["train"]) >= 36
    (tmp_path / "a" / "0.png").symlink_to(tmp_path / "a" / "sub0" / "0.png")  # a copy under another name
    (tmp_path / "a" / "notes.txt").write_text("not a photo")
    again = {split: ids(Photos(str(tmp_path / "a")), split) for split in ("train", "val", "test")}
    for split, names in again.items():
        assert set(splits[split]) <= set(names) and ("0.png" in names) == ("sub0/0.png" in names)


def test_few_photos_still_give_every_split(tmp_path) -> None:
    for count in (3, 4, 10):
        write_photos(tmp_path / str(count), count)
        assert all(ids(Photos(str(tmp_path / str(count))), split) for split in ("train", "val", "test"))


def test_split_folders_are_honoured(tmp_path) -> None:
    write_photos(tmp_path / "train", 3)
    write_photos(tmp_path / "val", 1)
    source = Photos(str(tmp_path))
    assert len(ids(source, "train")) == 3 and ids(source, "val") == ["val/sub0/0.png"]
    with pytest.raises(DataError, match="no 'test' folder"):
        source.pairs("test", Negative())


def test_refusals(tmp_path) -> None:
    with pytest.raises(UserError, match="one side of a pair only"):
        Photos().pairs("train")
    with pytest.raises(UserError, match="unknown split"):
        Photos().pairs("trian", Negative())
    with pytest.raises(UserError, match="no such folder"):
        Photos(str(tmp_path / "none")).pairs("train", Negative())
    with pytest.raises(DataError, match="no photo"):
        Photos(str(tmp_path)).pairs("train", Negative())
    write_photos(tmp_path, 2)
    with pytest.raises(DataError, match="2 distinct images cannot be split in 3"):
        Photos(str(tmp_path)).pairs("train", Negative())
    assert len(ids(Photos(str(tmp_path), val=0, test=0), "train")) == 2
    for val, test in [(0.5, 0.5), (-0.1, 0.1), (float("nan"), 0)]:
        with pytest.raises(UserError, match="val="):
            Photos(val=val, test=test)
    with pytest.raises(UserError, match="memory"):
        Photos(memory=-1)


def test_a_small_memory_budget_changes_nothing(tmp_path) -> None:
    write_photos(tmp_path, 4)
    kept, fresh = (Photos(str(tmp_path), 0, 0, memory=m).pairs("train", Negative()) for m in (10, 0))
    for i in range(4):
        a, b = (pairs.pair(i, numpy_rng(i), View(8)) for pairs in (kept, fresh))
        assert np.array_equal(a, b)
