"""What was built is trained on: by our loader, by `datasets`, by diffusers' script, and looked at."""

import json
import pickle
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lightning.cli.data import main
from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.datamodules import DerainDataModule
from ip2p_lightning.data.sources.built import Built
from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DamagedError, DataError, UserError
from tests.support.material import derain, pairs_folder, rained, read_report, read_rows, save, scene, tree


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    source = pairs_folder(folder / "in", 60, size=(72, 64))
    assert main(["build", *derain(source, folder / "out", "shard_bytes=400000")]) == 0
    return folder / "out"


def test_datasets_loads_what_the_script_of_diffusers_reads(built, tmp_path):
    """train_instruct_pix2pix.py: three columns, two images of one size and a string."""
    loaded = datasets.load_dataset(str(built), cache_dir=str(tmp_path))
    mark = json.loads((built / "dataset.json").read_text())
    assert {split: len(table) for split, table in loaded.items()} == mark["splits"]
    assert len(list((built / "data").glob("train-*"))) > 1
    features = loaded["train"].features
    assert {n for n, f in features.items() if isinstance(f, datasets.Image)} == {"original_image", "edited_image"}
    assert list(features) == ["original_image", "edit_prompt", "edited_image", "task", "id", "source_id", "split"]
    first = loaded["train"][0]
    assert first["original_image"].size == first["edited_image"].size and first["original_image"].mode == "RGB"
    assert isinstance(first["edit_prompt"], str) and first["edit_prompt"]
    streamed = datasets.load_dataset(str(built), split="val", streaming=True)
    assert [row["id"] for row in streamed] == loaded["val"]["id"][:]


def whole(pairs, i):
    return pairs.pair(i, np.random.default_rng(0), View(size=None))


@pytest.mark.parametrize("memory", [0, 256])
def test_rows_are_read_by_number_in_any_order(built, memory):
    pairs = Built(str(built), memory=memory).pairs("train")
    rows = read_rows(built, "train-*")
    assert len(pairs) == len(rows)
    for i in np.random.default_rng(1).permutation(len(rows)):
        assert (pairs.id(i), pairs.prompt(i)) == (rows[i]["id"], rows[i]["edit_prompt"])
        number = int(rows[i]["id"][-5:])
        clean = scene(number, size=(72, 64))
        original, edited = (np.round(image * 255) for image in whole(pairs, i))
        assert np.array_equal(edited, clean) and np.array_equal(original, rained(clean, number))
    again = pickle.loads(pickle.dumps(pairs))  # as a spawned worker gets it
    assert np.array_equal(whole(again, 3)[0], whole(pairs, 3)[0])


def test_a_cached_row_is_not_read_again(built, tmp_path, monkeypatch):
    from ip2p_lightning.data.latent_cache.content_key import Contents
    from ip2p_lightning.system.file_digests import Digests

    pairs = Built(str(built)).pairs("train")
    first = [Contents(Digests(tmp_path / "memo")).of(pairs, i) for i in range(len(pairs))]
    assert len(set(first)) == len(pairs)
    again, digests = Built(str(built)).pairs("train"), Digests(tmp_path / "memo")
    monkeypatch.setattr(type(again), "sources", None)
    assert [Contents(digests).of(again, i) for i in range(len(again))] == first and digests.read == 0


def test_memory_is_bounded_by_the_budget(built):
    pairs = Built(str(built), memory=0.05).pairs("train")
    for i in range(len(pairs)):
        whole(pairs, i)
    assert pairs._table._bytes <= 0.05 * 2**20 or len(pairs._table._kept) == 1


def test_training_from_it_resumes_with_the_very_next_batch(built):
    def batches(workers, skip=0):
        data = DerainDataModule(Built(str(built)), loader=Loader(batch_size=4, size=32, workers=workers))
        data._done = lambda: skip
        loader = data.train_dataloader()
        found = [(b.original, b.prompt, b.id) for b in loader]
        loader.close()
        return found

    all_of_them = batches(0)
    for found in (batches(2)[5:], batches(0, skip=5)):
        assert len(found) == len(all_of_them) - 5
        for (x, prompt, name), (y, wanted, other) in zip(found, all_of_them[5:], strict=True):
            assert torch.equal(x, y) and (prompt, name) == (wanted, other)


def test_the_pool_can_be_drawn_from_instead_of_the_stored_prompts(built):
    assert Built(str(built), prompts="pool").pairs("train").prompt(0) is None


def test_a_missing_dataset_or_task_is_reported(built, tmp_path):
    with pytest.raises(UserError, match="no finished dataset"):
        Built(str(tmp_path)).pairs("train")
    with pytest.raises(DataError, match="did you mean 'derain'"):
        Built(str(built), task="derian").pairs("train")


def test_a_changed_byte_is_damage_not_a_picture(built, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(built, copy)
    path = sorted((copy / "data").glob("val-*"))[0]
    content = bytearray(path.read_bytes())
    at = content.index(b"\x89PNG") + 200
    content[at] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=path.name):
        pairs = Built(str(copy)).pairs("val")
        for i in range(len(pairs)):
            whole(pairs, i)
    path.write_bytes(content[:-9])
    with pytest.raises(DamagedError, match="bytes that were written"):
        Built(str(copy)).pairs("val")


def test_every_flipped_bit_is_noticed(built, tmp_path):
    from ip2p_lightning.curation.verify import verify
    from tests.support.disks import bit_flips

    copy = shutil.copytree(built, tmp_path / "copy")
    for path in [sorted((copy / "data").iterdir())[0], copy / "README.md", copy / "report.jsonl"]:
        for flip in bit_flips(path, 100):
            try:
                verify(copy)
            except DamagedError as error:
                assert path.name in str(error)
                continue
            raise AssertionError(flip)
    assert main(["verify", str(copy)]) == 0


def test_a_sheet_shows_every_task(built, tmp_path, capsys):
    before = tree(built)
    assert main(["show", str(built), "--out", str(tmp_path / "sheets"), "--pairs", "3"]) == 0
    out = capsys.readouterr().out
    assert "pairs: 60, made from 60 source images" in out and "rejected: none" in out
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["derain.png"]
    assert Image.open(tmp_path / "sheets" / "derain.png").width > 600
    assert tree(built) == before


def test_a_built_dataset_is_a_source_for_another(built, tmp_path, build):
    words = ["task=derain", "source=hub", f"source.name={built}", "source.original=original_image"]
    words += ["source.edited=edited_image", "source.prompt=edit_prompt", "source.group=source_id"]
    code, line = build(*words, f"out={tmp_path / 'out'}", "build.workers=2")
    assert code == 0, line
    old, new = (json.loads((folder / "dataset.json").read_text()) for folder in (built, tmp_path / "out"))
    assert old["splits"] == new["splits"] and old["source_images"] == new["source_images"]


@pytest.mark.parametrize("task", ["cartoon", "denoise", "lowlight"])
def test_one_side_is_made_from_clean_photos(tmp_path, build, task):
    for i in range(8):
        save(tmp_path / "in" / f"{i}.png", scene("clean", i, size=(96, 80)))
    code, line = build(
        f"task={task}", "source=photos", f"source.root={tmp_path / 'in'}", f"out={tmp_path / 'out'}", "short_side=72"
    )
    assert code == 0, line
    made, report = "edited" if task == "cartoon" else "original", read_report(tmp_path / "out")
    assert len(read_rows(tmp_path / "out")) == 8
    assert all(line[made] == "made" and (line["width"], line["height"]) == (80, 72) for line in report)
