"""Folders and manifests: matching, splitting, and every refusal with its place."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.data.sources.base import EmptySplitError
from ip2p_lightning.data.sources.folder import Folder
from ip2p_lightning.data.sources.image_files import warn_once
from ip2p_lightning.data.sources.manifest import Manifest
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError, SecurityError, UserError
from ip2p_lightning.rng import numpy_rng

SPLITS = ("train", "val", "test")


def write(path: Path, seed: int = 0, size: tuple[int, int] = (16, 24), **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path, **options)


def write_folder(root: Path, count: int = 12) -> None:
    for n in range(count):
        write(root / "input" / f"{n}.png", n)
        write(root / "target" / f"{n}.bmp", 100 + n)


def ids(source: Folder | Manifest, split: str) -> list[str]:
    try:
        pairs = source.pairs(split)
    except EmptySplitError:
        return []
    return [pairs.id(i) for i in range(len(pairs))]


def lines(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_folder_matches_by_stem(tmp_path) -> None:
    write_folder(tmp_path)
    source = Folder(str(tmp_path), prompt="do it")
    assert sorted(name for s in SPLITS for name in ids(source, s)) == sorted(map(str, range(12)))
    pairs = source.pairs("train")
    original, edited = pairs.pair(0, numpy_rng(0), View(None))
    expected = [np.asarray(Image.open(next(tmp_path.glob(f"{d}/{pairs.id(0)}.*")))) for d in ("input", "target")]
    assert np.array_equal(np.rint(original * 255), expected[0]) and np.array_equal(np.rint(edited * 255), expected[1])
    assert pairs.prompt(0) == "do it" and Folder(str(tmp_path)).pairs("train").prompt(0) is None


def test_inputs_with_the_same_target_stay_together(tmp_path) -> None:
    for n in range(40):
        write(tmp_path / "input" / f"{n}.png", n)
        write(tmp_path / "target" / f"{n}.png", 100 + n // 2)  # two rains on each scene
    scenes = [{int(name) // 2 for name in ids(Folder(str(tmp_path), val=0.3, test=0.3), s)} for s in SPLITS]
    assert sum(map(len, scenes)) == len(set.union(*scenes)) and all(scenes)


EDITS = 4  # of each photo


@pytest.mark.parametrize("kind", ["folder", "manifest"])
def test_the_edits_of_one_photo_stay_together_and_more_of_them_move_nothing(tmp_path, kind) -> None:
    """Each photo has several edits: under names of its own, and saved anew."""
    rows, before = [], {}
    for edit in range(EDITS):
        for n in range(25):
            name = f"{n}-{edit}"
            write(tmp_path / "input" / f"{name}.{('png', 'bmp', 'tif', 'webp')[edit]}", n, lossless=True)
            write(tmp_path / "target" / f"{name}.png", 100 * (edit + 1) + n)
            rows.append({"id": name, "original": f"input/{name}.{('png', 'bmp', 'tif', 'webp')[edit]}"})
            rows[-1]["edited"] = f"target/{name}.png"
        source = Folder(str(tmp_path), val=0.2, test=0.2)
        if kind == "manifest":
            source = Manifest(lines(tmp_path / "m.jsonl", *rows), val=0.2, test=0.2)
        now = {name: split for split in SPLITS for name in ids(source, split)}
        assert len(now) == 25 * (edit + 1) and before.items() <= now.items() and set(now.values()) == {*SPLITS}
        assert len({(name.partition("-")[0], split) for name, split in now.items()}) == 25
        before = now


@pytest.mark.parametrize("kind", ["jfif", "jpe", "avif", "JPG", "jif", "apng", "mpo"])
def test_every_name_of_a_kind_that_is_read_is_used(tmp_path, kind) -> None:
    formats = {"avif": "AVIF", "apng": "PNG"}
    for n, ending in enumerate(("png", kind, kind)):
        for side in ("input", "target"):
            write(tmp_path / side / f"{n}.{ending}", n, format=formats.get(ending, "JPEG"))
    pairs = Folder(str(tmp_path), val=0, test=0).pairs("train")
    assert [pairs.id(i) for i in range(len(pairs))] == ["0", "1", "2"]
    assert pairs.pair(2, numpy_rng(0), View(None))[0].shape == (16, 24, 3)


@pytest.mark.parametrize("kind", ["heic", "jxl", "dng", "svg", "JP2", "ppm"])
def test_an_image_that_is_not_read_is_refused_by_name(tmp_path, kind) -> None:
    write_folder(tmp_path, 2)
    for side in ("input", "target"):
        (tmp_path / side / f"odd.{kind}").write_bytes(b"x")
    with pytest.raises(DataError, match=rf"odd\.{kind}: \.{kind.lower()} is not read.*convert it"):
        Folder(str(tmp_path)).pairs("train")
    row = {"original": f"input/odd.{kind}", "edited": "target/0.bmp"}
    with pytest.raises(DataError, match=rf"line 1, field 'original'.*\.{kind.lower()} is not read"):
        Manifest(lines(tmp_path / "m.jsonl", row)).pairs("train")


def test_what_is_not_used_is_named_once(tmp_path) -> None:
    warn_once.cache_clear()
    write_folder(tmp_path, 8)
    for n in range(4):
        (tmp_path / "input" / f"notes{n}.txt").write_text("no image")
    (tmp_path / "target" / "linked").symlink_to(tmp_path / "input")
    write(tmp_path / "extra" / "photo.png")
    (tmp_path / ".hidden").write_text("x")
    with pytest.warns(UserWarning) as said:
        for split in SPLITS:
            ids(Folder(str(tmp_path)), split)
    assert sorted(str(warning.message).removeprefix(str(tmp_path)) for warning in said) == [
        "/input: 4 files are not used: notes0.txt, notes1.txt, notes2.txt, ...",
        "/target: 1 file is not used: linked",
        ": 1 file is not used: extra",
    ]
    for split, count in zip(SPLITS, (3, 2, 1), strict=True):
        write_folder(tmp_path / "split" / split, count)
    write(tmp_path / "split" / "holdout" / "input" / "0.png")
    with pytest.warns(UserWarning, match="split: 1 file is not used: holdout"):
        Folder(str(tmp_path / "split")).pairs("val")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_in_either_unicode_form(tmp_path, forms) -> None:
    first, second = (unicodedata.normalize(form, "Ärger/café é") for form in forms)
    write(tmp_path / "input" / f"{first}.png", 1)
    write(tmp_path / "target" / f"{second}.png", 2)
    assert ids(Folder(str(tmp_path), val=0, test=0), "train") == [unicodedata.normalize("NFC", first)]
    row = {"original": f"input/{second}.png", "edited": f"target/{first}.png", "prompt": "x", "id": "a"}
    source = Manifest(lines(tmp_path / "m.jsonl", row), val=0, test=0)
    edited = source.pairs("train").pair(0, numpy_rng(0), View(None))[1]
    assert np.array_equal(np.rint(edited * 255), np.asarray(Image.open(tmp_path / "target" / f"{second}.png")))


def test_folder_with_split_folders(tmp_path) -> None:
    for split, count in zip(SPLITS, (3, 2, 1), strict=True):
        write_folder(tmp_path / split, count)
    assert [len(ids(Folder(str(tmp_path)), s)) for s in SPLITS] == [3, 2, 1]


def test_folder_refusals(tmp_path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Folder(str(tmp_path / "none")).pairs("train")
    with pytest.raises(UserError, match="input: no such folder"):
        Folder(str(tmp_path)).pairs("train")
    (tmp_path / "input").mkdir()
    (tmp_path / "target").mkdir()
    with pytest.raises(DataError, match="no image"):
        Folder(str(tmp_path)).pairs("train")
    write_folder(tmp_path)
    write(tmp_path / "target" / "lonely.png")
    with pytest.raises(DataError, match=r"lonely\.png.*'input'"):
        Folder(str(tmp_path)).pairs("train")
    (tmp_path / "target" / "lonely.png").unlink()
    write(tmp_path / "input" / "3.jpg")
    with pytest.raises(DataError, match="same name"):
        Folder(str(tmp_path)).pairs("train")


def test_sizes_must_agree(tmp_path) -> None:
    write(tmp_path / "input" / "a.png", 0, (16, 24))
    write(tmp_path / "target" / "a.png", 1, (16, 25))
    with pytest.raises(DataError, match="24 x 16 and 25 x 16"):
        Folder(str(tmp_path), val=0, test=0).pairs("train").pair(0, numpy_rng(0), View(8))


def test_manifest_in_both_formats(tmp_path) -> None:
    write_folder(tmp_path, 3)
    rows = [
        {"original": f"input/{n}.png", "edited": f"target/{n}.bmp", "prompt": p, "split": s, "id": f"p{n}"}
        for n, (p, s) in enumerate([("make, it", "train"), ("", "val"), ("do", "test")])
    ]
    cells = [",".join(f'"{v}"' for v in row.values()) for row in rows]
    (tmp_path / "m.csv").write_bytes(("\ufeff" + "\r\n".join([",".join(rows[0]), *cells])).encode())
    for path in (lines(tmp_path / "m.jsonl", *rows), str(tmp_path / "m.csv")):
        source = Manifest(path)
        assert [ids(source, s) for s in SPLITS] == [["p0"], ["p1"], ["p2"]]
        assert [source.pairs(s).prompt(0) for s in SPLITS] == ["make, it", None, "do"]
        original, _ = source.pairs("test").pair(0, numpy_rng(0), View(None))
        assert np.array_equal(np.rint(original * 255), np.asarray(Image.open(tmp_path / "input" / "2.png")))


def test_manifest_keeps_shared_images_in_one_split(tmp_path) -> None:
    for n in range(60):
        write(tmp_path / f"{n}.png", n)
    rows = [{"original": f"{n}.png", "edited": f"{n - n % 3}.png", "id": str(n)} for n in range(60)]
    source = Manifest(lines(tmp_path / "m.jsonl", *rows), prompt=None, val=0.3, test=0.3)
    used = [{image for i in map(int, ids(source, split)) for image in (i, i - i % 3)} for split in SPLITS]
    assert sum(map(len, used)) == len(set.union(*used)) and all(used)


def test_a_manifest_without_prompts_draws_from_the_tasks(tmp_path) -> None:
    write_folder(tmp_path, 3)
    files = [{"original": f"input/{n}.png", "edited": f"target/{n}.bmp"} for n in range(3)]
    rows = [files[0], files[1] | {"prompt": ""}, files[2] | {"prompt": "own"}]
    pairs = Manifest(lines(tmp_path / "m.jsonl", *rows), val=0, test=0).pairs("train")
    assert [pairs.prompt(i) for i in range(3)] == [None, None, "own"]
    (tmp_path / "m.csv").write_text("original,edited\ninput/0.png,target/0.bmp\n")
    assert Manifest(str(tmp_path / "m.csv"), val=0, test=0).pairs("train").prompt(0) is None


def test_captions_of_one_pair_have_ids_of_their_own_that_later_lines_do_not_change(tmp_path) -> None:
    write_folder(tmp_path, 2)
    files = [{"original": f"input/{n}.png", "edited": f"target/{n}.bmp"} for n in range(2)]
    rows = [files[0] | {"prompt": "a"}, files[1], files[0] | {"prompt": "b"}, files[0], files[0] | {"prompt": "ä"}]
    names = []
    for count in (2, 3, 5):
        names.append(ids(Manifest(lines(tmp_path / "m.jsonl", *rows[:count]), val=0, test=0), "train"))
    assert names[0] == names[2][:2] == ["input/0.png > target/0.bmp", "input/1.png > target/1.bmp"]
    assert names[1] == names[2][:3] and len(set(names[2])) == 5
    for again in (rows[0], rows[2]):
        with pytest.raises(DataError, match=r"line 6: field 'id'.*already on line"):
            ids(Manifest(lines(tmp_path / "m.jsonl", *rows, again)), "train")


def test_a_line_without_a_split_beside_lines_with_one_is_not_lost(tmp_path) -> None:
    write_folder(tmp_path, 2)
    rows = [{"original": f"input/{n}.png", "edited": f"target/{n}.bmp"} for n in range(2)]
    with pytest.raises(DataError, match="line 2: field 'split' is empty"):
        Manifest(lines(tmp_path / "m.jsonl", rows[0] | {"split": "train"}, rows[1])).pairs("train")


def test_manifest_of_one_task(tmp_path) -> None:
    write_folder(tmp_path, 4)
    rows = [{"input": f"input/{n}.png", "target": f"target/{n}.bmp", "task": "ab"[n % 2]} for n in range(4)]
    path = lines(tmp_path / "m.jsonl", *rows)
    source = Manifest(path, None, "input", "target", None, task="b", val=0, test=0)
    assert ids(source, "train") == ["input/1.png > target/1.bmp", "input/3.png > target/3.bmp"]
    with pytest.raises(DataError, match="no line with task 'c'"):
        Manifest(path, None, "input", "target", None, task="c").pairs("train")


GOOD = {"original": "input/0.png", "edited": "target/0.bmp", "prompt": "x"}
BAD_ROWS = [  # besides those of the drill of manifests
    *[({**GOOD, "original": path}, SecurityError, "link out") for path in ("link.png", "linked/secret.png")],
    ({**GOOD, "original": "pipe.png"}, SecurityError, "pipe"),
    ({"original": "input/0.png", "target": "x"}, DataError, "no field 'edited', it has original, target"),
]


@pytest.mark.parametrize(("row", "error", "words"), BAD_ROWS)
def test_manifest_refusals_name_the_line(tmp_path, row: dict, error: type, words: str) -> None:
    root = tmp_path / "root"
    write_folder(root, 2)
    write(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "linked").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.png")
    with pytest.raises(error, match="line 2") as caught:
        Manifest(lines(root / "m.jsonl", {**GOOD, "original": "input/1.png"}, row)).pairs("train")
    assert words in str(caught.value) and "\n" not in str(caught.value) and type(caught.value) is error


def test_broken_tables(tmp_path) -> None:
    write_folder(tmp_path, 2)
    table = tmp_path / "m.csv"
    for rest in ("", ',"x"y'):
        table.write_text(f"original,edited,prompt\ninput/0.png,target/0.bmp{rest}\n")
        with pytest.raises(DataError, match="line 2"):
            Manifest(str(table)).pairs("train")
    (tmp_path / "m.jsonl").write_text(json.dumps(GOOD) + "\n\n{\n")
    with pytest.raises(DataError, match="line 3"):
        Manifest(str(tmp_path / "m.jsonl")).pairs("train")
    with pytest.raises(UserError, match="no such file"):
        Manifest(str(tmp_path / "none.csv")).pairs("train")
    with pytest.raises(UserError, match=r"csv or \.jsonl"):
        Manifest(str(tmp_path / "input" / "0.png")).pairs("train")
