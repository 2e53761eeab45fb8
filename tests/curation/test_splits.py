"""Drill 28: photos that are on both sides of a split, and the division where there is none."""

import io

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.curation.audit.perceptual_hash import PerceptualHash, find_lookalikes, perceptual_hash
from ip2p_lightning.curation.audit.splits import Entry, Fractions, assign_splits
from tests.support.material import derain, pairs_folder, rained, read_report, save, scene

KINDS = ("exact", "jpeg", "half", "flipped", "other rain")


def leaked(clean: np.ndarray, kind: str) -> np.ndarray:
    if kind == "jpeg":
        out = io.BytesIO()
        Image.fromarray(clean).save(out, "JPEG", quality=80)
        return np.asarray(Image.open(out))
    if kind == "half":
        return np.asarray(Image.fromarray(clean).resize((clean.shape[1] // 2, clean.shape[0] // 2)))
    return np.ascontiguousarray(clean[:, ::-1]) if kind == "flipped" else clean


def planted(root, distinct: int, leaks: int) -> None:
    """Distinct pairs in train and test, and `leaks` of test's photos in train, in one of the disguises."""
    for i in range(distinct):
        split, clean = ("test" if i % 5 == 0 else "train"), scene("leak", i, size=(96, 64))
        save(root / split / "target" / f"d{i:05d}.png", clean)
        save(root / split / "input" / f"d{i:05d}.png", rained(clean, "leak", i))
    for k in range(leaks):
        clean = leaked(scene("leak", 5 * k, size=(96, 64)), KINDS[k % 5])
        rain = rained(clean, "leak", 5 * k if KINDS[k % 5] != "other rain" else -k - 1)
        save(root / "train" / "target" / f"leak{k:03d}.png", clean)
        save(root / "train" / "input" / f"leak{k:03d}.png", rain)


@pytest.mark.parametrize(
    ("distinct", "leaks"), [(120, 20), pytest.param(5000, 50, marks=pytest.mark.slow)], ids=["small", "full"]
)
def test_planted_leaks_are_refused_and_distinct_photos_are_not(tmp_path, build, distinct, leaks):
    planted(tmp_path / "in", distinct, leaks)
    words = derain(tmp_path / "in", tmp_path / "out")
    code, line = build(*words)
    assert code == 3 and "of test" in line
    assert build(*words, "on_bad=skip")[0] == 0
    refused = {x["id"] for x in read_report(tmp_path / "out") if x["verdict"] == "rejected"}
    found = [k for k in range(leaks) if any(name.endswith(f"leak{k:03d}") for name in refused)]
    alarms = sum("leak" not in name.rpartition("/")[2] for name in refused)
    by_kind = {kind: sum(KINDS[k % 5] == kind for k in found) for kind in KINDS}
    print(f"drill 28: {len(found)} of {leaks} leaks, {by_kind}; {alarms} false alarms on {distinct}")
    assert by_kind["exact"] == by_kind["other rain"] == leaks // 5
    assert len(found) >= 0.9 * leaks and alarms <= 0.01 * distinct


def test_pairs_without_a_split_are_divided_by_photo(tmp_path, build):
    pairs_folder(tmp_path / "in", 30)
    for i in range(30):  # the same thirty photos with other rain, and once more mirrored
        save(tmp_path / "in" / "target" / f"q{i:02d}.png", scene(i))
        save(tmp_path / "in" / "input" / f"q{i:02d}.png", rained(scene(i), "other", i))
        save(tmp_path / "in" / "target" / f"r{i:02d}.png", scene(i)[:, ::-1])
        save(tmp_path / "in" / "input" / f"r{i:02d}.png", rained(scene(i)[:, ::-1], i))
    assert build(*derain(tmp_path / "in", tmp_path / "out"))[0] == 0
    lines, split_of = read_report(tmp_path / "out"), {}
    for line in lines:
        split_of.setdefault(line["source_id"], set()).add(line["split"])
    assert len(lines) == 90 and len(split_of) == 30 and all(len(splits) == 1 for splits in split_of.values())
    assert set.union(*split_of.values()) == {"train", "val", "test"}


def entry(name, split=None, prints=(), scene=None, task="derain"):
    return Entry(name, task, split, scene, (*prints, name), PerceptualHash(0, 0, b""), 1)


def test_test_keeps_a_photo_that_training_has_too_and_the_reason_names_it():
    entries = [entry("a", "train", ["x"]), entry("b", "test", ["x"]), entry("c", "train")]
    assign_splits(entries, {"derain": Fractions(0, 0)}, True)
    assert [e.split for e in entries] == ["", "test", "train"] and "b of test" in entries[0].reason


def test_scenes_stay_together_when_training_is_divided():
    entries = [entry(f"{s}{i}", "train", scene=s) for s in "abcdefgh" for i in range(5)] + [entry("t", "test")]
    assign_splits(entries, {"derain": Fractions(0.3, 0.1)}, True)
    by_scene = {s: {e.split for e in entries if e.scene == s} for s in "abcdefgh"}
    assert all(len(splits) == 1 for splits in by_scene.values())
    assert set.union(*by_scene.values()) == {"train", "val"}  # test is published: nothing is taken for it


def test_what_is_added_moves_nothing():
    before = {}
    for count in (1, 2, 4, 10, 25):  # edits of each photo, frames of each scene, and new ones of both
        entries = [entry(f"p{i}-{k}", None, [f"photo{i}"]) for i in range(5 * count) for k in range(count)]
        entries += [entry(f"s{i}-{k}", None, scene=f"s{i}") for i in range(2 * count) for k in range(count)]
        assign_splits(entries, {"derain": Fractions(0.2, 0.2)}, True)
        now = {e.id: e.split for e in entries}
        assert before.items() <= now.items()
        before = now
    assert set(before.values()) == {"train", "val", "test"}


def test_tasks_share_no_photo_across_splits():
    clean = [entry(f"n{i}", None, [f"photo{i}"], task="denoise") for i in range(40)]
    rain = [entry(f"r{i}", "test", [f"photo{i}"]) for i in range(5)]
    entries = clean + rain
    assign_splits(entries, {"denoise": Fractions(0.1, 0.1), "derain": Fractions(0, 0)}, True)
    assert all(e.split == "test" for e in entries[:5]) and {e.split for e in entries[5:]} == {"train", "val", "test"}


def test_flat_images_resemble_nothing_and_likeness_survives_the_mirror():
    assert perceptual_hash(np.full((64, 64, 3), 90, np.uint8)).thumb == b""
    a, b = scene("m", 1, size=(80, 60)), scene("m", 2, size=(80, 60))
    assert set(find_lookalikes([perceptual_hash(x) for x in (a, b, a[:, ::-1])])) == {(0, 2)}
