"""Drill 26 and the traversal forms: pairs, manifests, prompts and paths."""

import json
import os
import unicodedata

import numpy as np
import pytest

from ip2p_lightning.cli.data import main
from ip2p_lightning.curation.audit.alignment import displacement
from ip2p_lightning.curation.audit.policy import time_limit
from ip2p_lightning.curation.audit.token_count import counter
from ip2p_lightning.data.sources.image_files import warn_once
from tests.support.material import derain, pairs_folder, rained, read_report, save, scene


def stages(folder):
    rejected = [line for line in read_report(folder) if line["verdict"] == "rejected"]
    return {line["id"].removeprefix("derain/"): (line["stage"], line["reason"]) for line in rejected}


def test_every_fault_of_a_pair_is_named(tmp_path, build):
    root = pairs_folder(tmp_path / "in", 8)
    clean = scene("fault", size=(96, 96))
    wrong = {
        "size": (clean, clean[:80]),
        "turned": (clean[:, :80], np.rot90(clean[:, :80])),
        "shifted": (np.roll(rained(clean, 1), (8, -3), (0, 1)), clean),
        "same": (clean, clean),
    }
    for name, (original, edited) in wrong.items():
        save(root / "input" / f"{name}.png", np.ascontiguousarray(original))
        save(root / "target" / f"{name}.png", np.ascontiguousarray(edited))
    save(root / "input" / "alone.png", clean)
    (root / "input" / "folder.png").mkdir()
    save(root / "target" / "folder.png", clean)
    assert build(*derain(root, tmp_path / "out", "on_bad=skip"))[0] == 0
    found = stages(tmp_path / "out")
    assert {name.rpartition("/")[2] for name in found} == {*wrong, "alone", "folder"}
    assert found["input/size"] == ("pair", "sizes differ, 96 x 96 and 96 x 80 pixels")
    assert found["input/turned"][1].endswith("one of them turned")
    assert found["input/shifted"][1] == "the edited image is shifted by -8 rows and 3 columns"
    assert found["input/same"][1] == "the two images are identical"
    assert found["input/alone"][0] == found["target/folder"][0] == "list"


def test_every_file_of_a_source_is_used_or_named(tmp_path, capsys):
    root = pairs_folder(tmp_path / "in", 6)
    for kind, how in {"jfif": "JPEG", "jpe": "JPEG", "avif": "AVIF"}.items():
        for side, image in (("input", rained(scene(kind), 1)), ("target", scene(kind))):
            save(root / side / f"{kind}.{kind}", image, format=how, quality=95)
    forms = [unicodedata.normalize(form, "Ärger") for form in ("NFC", "NFD")]
    save(root / "input" / f"{forms[0]}.png", rained(scene("form"), 1))
    save(root / "target" / f"{forms[1]}.png", scene("form"))
    for kind in ("heic", "jxl", "svg"):
        for side in ("input", "target"):
            (root / side / f"{kind}.{kind}").write_bytes(kind.encode())
    (root / "input" / "notes.txt").write_text("x")
    save(root / "extra" / "lost.png", scene("lost"))
    warn_once.cache_clear()
    assert main(["build", *derain(root, tmp_path / "out", "on_bad=skip")]) == 0
    assert f"warning: {root}: 2 files are not used: extra, input/notes.txt\n" in capsys.readouterr().err
    lines = {x["id"].rpartition("/")[2]: x["verdict"] for x in read_report(tmp_path / "out")}
    assert len(lines) == 13 and {n for n, said in lines.items() if said == "rejected"} == {"heic", "jxl", "svg"}


def test_identical_and_shifted_pairs_are_kept_and_counted_if_that_is_the_policy(tmp_path, build):
    root, clean = pairs_folder(tmp_path / "in", 8), scene("policy", size=(96, 96))
    for name, original in {"same": clean, "moved": np.roll(clean, 5, 0)}.items():
        save(root / "input" / f"{name}.png", original)
        save(root / "target" / f"{name}.png", clean)
    assert build(*derain(root, tmp_path / "out", "audit.identical=keep", "audit.shift=note"))[0] == 0
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["identical_pairs"] == 1
    assert {x["id"]: x["shift"] for x in read_report(tmp_path / "out") if "shift" in x} == {
        "derain/input/moved": [-5, 0]
    }


@pytest.mark.parametrize("moved", [(0, 0), (1, 0), (0, -2), (8, 8), (-13, 5)])
def test_a_displacement_is_measured_under_rain(moved):
    clean = scene("shift", size=(160, 140))
    assert displacement(rained(clean, 2), np.roll(clean, moved, (0, 1))) == moved


def test_dark_noisy_and_flat_pairs_are_not_taken_for_shifted():
    clean, rng = scene("dark", size=(128, 128)), np.random.default_rng(0)
    dark = (clean * 0.08).astype(np.uint8)
    noisy = np.clip(clean + rng.normal(0, 60, clean.shape), 0, 255).astype(np.uint8)
    flat = np.full_like(clean, 77)
    assert all(displacement(image, clean) == (0, 0) for image in (dark, noisy, flat, 255 - clean, clean[:, ::-1]))


def test_a_file_that_takes_too_long_is_refused():
    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"), time_limit(0.05):
        while True:
            pass


# ---- manifests ----


def manifest(root, *records):
    (root / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root / "pairs.jsonl"


@pytest.fixture
def pairs(tmp_path):
    root = pairs_folder(tmp_path / "in", 8)
    return root, [{"original": f"input/p{i:05d}.png", "edited": f"target/p{i:05d}.png"} for i in range(8)]


def test_a_manifest_builds_with_its_own_prompts_ids_and_hashes(pairs, tmp_path, build):
    import hashlib

    root, records = pairs
    for i, record in enumerate(records):
        digest = hashlib.sha256((root / record["original"]).read_bytes()).hexdigest()
        record |= {"id": f"n{i}", "prompt": f"take rain {i} away", "original_sha256": digest}
    records[2]["original_sha256"] = "0" * 64
    records[3]["prompt"] = "bad\u0000prompt"
    records[4]["original"] = "input/not there.png"
    records[6]["id"] = "N5"
    forms = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    save(root / f"{forms[0]}.png", scene("form"))
    records += [{"original": "input/p00007.png", "edited": "target/p00007.png", "prompt": p} for p in "xy"]
    records.append({"original": f"{forms[1]}.png", "edited": "target/p00007.png", "prompt": "z"})
    words = [f"source.path={manifest(root, *records)}", f"out={tmp_path / 'out'}", "on_bad=skip"]
    assert build("task=derain", "source=manifest", *words)[0] == 0
    found = stages(tmp_path / "out")
    assert found["n2"][0] == "read" and found["n3"][0] == "prompt"
    assert sum("in case or Unicode form" in why for _, why in found.values()) == 1, found
    assert found["pairs.jsonl:5"] == ("list", "line 5, field 'original': 'input/not there.png': no such file")
    accepted = {x["id"] for x in read_report(tmp_path / "out") if x["verdict"] == "accepted"}
    assert sum("p00007.png > " in name for name in accepted) == 2  # two captions of one pair
    assert sum(forms[1] in name for name in accepted) == 1  # its file is spelt in the other form
    assert len(read_report(tmp_path / "out")) == 11


@pytest.mark.parametrize("source", ["manifest", "folder"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_no_source_reaches_outside_its_folder(pairs, tmp_path, build, source, kind):
    root, records = pairs
    path = root / records[1]["original"]
    path.unlink()
    if kind == "link":
        path.symlink_to(save(tmp_path / "secret.png", scene("secret")))
    else:
        os.mkfifo(path)
    where = f"source.path={manifest(root, *records)}" if source == "manifest" else f"source.root={root}"
    code, line = build("task=derain", f"source={source}", where, f"out={tmp_path / 'o'}", "on_bad=skip")
    assert code == 7 and ("line 2" if source == "manifest" else path.name) in line
    assert not (tmp_path / "o" / "data").exists()


# ---- prompts ----


def test_one_more_photo_changes_no_other_pair(tmp_path, build):
    root = pairs_folder(tmp_path / "in", 9)
    prompts = []
    for out in ("few", "more"):
        words = ["task=denoise", "source=photos", f"source.root={root / 'target'}", f"out={tmp_path / out}"]
        assert build(*words)[0] == 0
        prompts.append({x["id"]: (x["psnr"], x["tokens"]) for x in read_report(tmp_path / out)})
        save(root / "target" / "more.png", scene("one more"))
    assert prompts[0].items() <= prompts[1].items() and len(prompts[1]) == 10


def test_the_length_of_a_prompt_is_estimated_without_a_tokenizer():
    label, count = counter(None)
    assert "estimated" in label and (count("rain " * 75), count("rain " * 500), count("it's")) == (77, 502, 4)
