"""Photos: fixed splits of the installed ones, hashed splits of a folder's, and which side is made."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.data.sources import fingerprints
from ip2p_lightning.data.sources.base import EmptySplitError
from ip2p_lightning.data.sources.photos import Photos
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.rng import numpy_rng
from ip2p_lightning.system.file_digests import remember_digests


class Negative:
    """A stand-in for a degradation."""

    def __call__(self, image, rng):
        return 1 - image


class Teacher(Negative):
    makes = "edited"


def write_photos(root: Path, count: int, start: int = 0) -> None:
    for n in range(start, count):
        pixels = np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (root / f"sub{n % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / f"sub{n % 2}" / f"{n}.png")


def ids(source: Photos, split: str) -> list[str]:
    try:
        pairs = source.pairs(split, Negative())
    except EmptySplitError:
        return []
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


def places(root: Path, **fractions: float) -> dict[str, str]:
    source = Photos(str(root), **fractions)
    return {name: split for split in ("train", "val", "test") for name in ids(source, split)}


def test_copies_of_a_photo_are_in_one_split_however_they_are_saved(tmp_path) -> None:
    write_photos(tmp_path, 60)
    before = places(tmp_path)
    assert len(before) == 60 and set(before.values()) == {"train", "val", "test"}
    for name in before:
        photo = Image.open(tmp_path / name)
        photo.save((tmp_path / f"again-{Path(name).name}").with_suffix(".bmp"))
        photo.save(tmp_path / f"harder-{Path(name).name}", compress_level=9)
        turned = photo.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[274] = 6
        turned.save(tmp_path / f"turned-{Path(name).name}", exif=exif)
    (tmp_path / "linked.png").symlink_to(tmp_path / "sub0" / "0.png")
    after = places(tmp_path)
    assert len(after) == 60 * 4 + 1 and after["linked.png"] == before["sub0/0.png"]
    for name, split in after.items():
        copied = Path(name).stem.rpartition("-")[2]
        assert copied == "linked" or split == before[f"sub{int(copied) % 2}/{copied}.png"]


@pytest.mark.parametrize("fractions", [{}, {"val": 0.3, "test": 0.3}, {"val": 0.0}])
def test_photos_that_are_added_move_no_other_one(tmp_path, fractions) -> None:
    before: dict[str, str] = {}
    for count in (1, 2, 3, 5, 9, 20, 55):
        write_photos(tmp_path, count, len(before))
        now = places(tmp_path, **fractions)
        assert len(now) == count and before.items() <= now.items()
        before = now


def test_a_split_that_gets_no_photo_says_what_to_do(tmp_path) -> None:
    write_photos(tmp_path, 2)
    for split, how in (("val", "a larger data.val="), ("test", "a larger data.test=")):
        with pytest.raises(EmptySplitError, match=f"no photo for '{split}'.*folders train, val and test.*{how}"):
            Photos(str(tmp_path), val=0, test=0).pairs(split, Negative())
    with pytest.raises(EmptySplitError, match=r"no photo for 'train'.*smaller data"):
        Photos(str(tmp_path), val=0.0, test=0.9999).pairs("train", Negative())


def test_a_second_start_decodes_nothing(tmp_path, monkeypatch) -> None:
    write_photos(tmp_path / "in", 12)
    monkeypatch.setattr(fingerprints, "FEW_BYTES", 0)
    remember_digests(tmp_path / "memo")
    before = places(tmp_path / "in")
    monkeypatch.setattr(fingerprints, "open_image", lambda *_, **__: pytest.fail("decoded"))
    remember_digests(tmp_path / "memo")  # another process
    assert places(tmp_path / "in") == before
    remember_digests(None)


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
