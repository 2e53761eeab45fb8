"""Every source's published layout, on a small tree of the same shape."""

import json
from pathlib import Path

import pytest

from ip2p_lightning.config.build import build as made
from ip2p_lightning.config.compose import CONF, composed, plain
from ip2p_lightning.curation.audit.examine import Part
from ip2p_lightning.curation.audit.policy import Audit
from ip2p_lightning.curation.build import build as build_dataset
from ip2p_lightning.curation.plan import BuildSettings
from ip2p_lightning.data.degradations.noise import GaussianNoise
from ip2p_lightning.data.prompts import PromptPool
from tests.support.material import rained, save, scene

SIDD = "Data/{i:04d}_{i:03d}_S6_00100_00060_3200_L"
# Source, what its pairs are divided into, and the paths of one packing (as published). " | ": an original and its
# edited image; " ; ": another part. published: training and test parts, some of the first for validation.
LAYOUTS = f"""
imagenette: published: imagenette2/train/n01440764/a{{i}}.JPEG ; imagenette2/val/n01440764/b{{i}}.JPEG
imagenette: published: imagenette2-320/train/n01440764/a{{i}}.JPEG ; imagenette2-320/val/n1/b{{i}}.JPEG
rain13k: published: train/Rain13K/input/{{i}}.jpg | train/Rain13K/target/{{i}}.jpg ; \
    test/Rain100L/input/{{i}}.png | test/Rain100L/target/{{i}}.png
rain100l: published: rain_data_train_Light/rain/norain-{{i}}x2.png | rain_data_train_Light/norain/norain-{{i}}.png ; \
    rain_data_test_Light/rain/X2/norain-{{i:03d}}x2.png | rain_data_test_Light/norain/norain-{{i:03d}}.png
rain100l: hashed: input/{{i}}.png | target/{{i}}.png
rain100l: test: rainy/rain-{{i:03d}}.png | norain-{{i:03d}}.png
rain100h: published: rain_data_train_Heavy/rain/X2/norain-{{i}}x2.png | \
    rain_data_train_Heavy/norain/norain-{{i}}.png ; \
    rain_data_test_Heavy/rain/X2/norain-{{i:03d}}x2.png | rain_data_test_Heavy/norain/norain-{{i:03d}}.png
sidd_small: hashed: SIDD_Small_sRGB_Only/{SIDD}/NOISY_SRGB_010.PNG | SIDD_Small_sRGB_Only/{SIDD}/GT_SRGB_010.PNG
sidd_medium: hashed: {SIDD}/{{i:04d}}_NOISY_SRGB_010.PNG | {SIDD}/{{i:04d}}_GT_SRGB_010.PNG
lol_v1: published: our485/low/{{i}}.png | our485/high/{{i}}.png ; eval15/low/{{i}}.png | eval15/high/{{i}}.png
lol_v2_real: published: Real_captured/Train/Low/low{{i:05d}}.png | Real_captured/Train/Normal/normal{{i:05d}}.png ; \
    Real_captured/Test/Low/low{{i:05d}}.png | Real_captured/Test/Normal/normal{{i:05d}}.png
reds: published: train/train_blur/{{i:03d}}/00000000.png | train/train_sharp/{{i:03d}}/00000000.png ; \
    val/val_blur/{{i:03d}}/00000000.png | val/val_sharp/{{i:03d}}/00000000.png
gopro: published: train/GOPR0372_07_{{i:02d}}/blur/000047.png | train/GOPR0372_07_{{i:02d}}/sharp/000047.png ; \
    test/GOPR0384_11_{{i:02d}}/blur/000001.png | test/GOPR0384_11_{{i:02d}}/sharp/000001.png
bsd: all: BSR/BSDS500/data/images/train/{{i}}.jpg ; BSR/BSDS500/data/images/val/{{i}}.jpg ; \
    BSR/BSDS500/data/images/test/{{i}}.jpg
wed: hashed: exploration_database_and_code/pristine_images/{{i:05d}}.bmp
kodak: test: kodim{{i:02d}}.png
cbsd68: test: CBSD68/original_png/{{i:04d}}.png
urban100: test: image_SRF_4/img_{{i:03d}}_SRF_4_HR.png
urban100: test: img_{{i:03d}}.png
photos: hashed: holiday/{{i}}.jpg
folder: hashed: input/{{i}}.png | target/{{i}}.png
"""
CASES = [tuple(line.split(": ")) for line in LAYOUTS.strip().splitlines()]
SPLITS = {
    "all": {"train": 6, "val": 6, "test": 6},
    "test": {"test": 6},
}
TASKS = {"sidd_small": "denoise", "sidd_medium": "denoise", "lol_v1": "lowlight", "lol_v2_real": "lowlight"}
TASKS |= {"reds": "deblur", "gopro": "deblur", "imagenette": "cartoon"}
TASKS |= dict.fromkeys(("rain100l", "rain100h", "rain13k"), "derain")


def grow(root: Path, patterns: str) -> None:
    for number, pattern in enumerate(patterns.split(";")):
        for i in range(1, 7):
            clean = scene("source", number, i, size=(48, 48))
            sides = [side.strip().format(i=i) for side in pattern.split("|")]
            for path, image in zip(sides, (rained(clean, i), clean) if len(sides) > 1 else (clean,), strict=True):
                target = root / path
                save(target.with_suffix(target.suffix.lower()), image).rename(target)


@pytest.mark.parametrize(("name", "divided", "patterns"), CASES)
def test_a_published_layout_is_found_and_divided(tmp_path, name, divided, patterns):
    grow(tmp_path / "in", patterns)
    config = plain(composed([f"source={name}", f"source.root={tmp_path / 'in'}", "out=x"], "build"))
    part = Part(TASKS.get(name, "denoise"), made(config["source"]), PromptPool(["do it"]), GaussianNoise())
    assert build_dataset(BuildSettings([part], Audit()), tmp_path / "out") == 0
    mark = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert mark["rejected"] == 0
    splits = mark["splits"]
    if divided == "hashed":  # six photos or scenes: how many go where is their hashes' affair
        assert sum(splits.values()) == 6
    elif divided == "published":
        assert splits["test"] == 6 and splits["train"] + splits.get("val", 0) == 6
    else:
        assert splits == SPLITS[divided]


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "source").glob("*.yaml")))
def test_a_source_that_is_not_there_says_what_to_download(name, build, tmp_path):
    given = {"manifest": "source.path", "hub": "source.name"}.get(name, "source.root")
    code, line = build("task=denoise", f"source={name}", f"{given}={tmp_path / 'nowhere'}", f"out={tmp_path / 'out'}")
    assert code == 2 and "nowhere" in line and line.startswith("error: ")
    if name not in ("manifest", "hub", "folder", "photos"):
        assert "download" in line or "put" in line
        assert "GB" in line
    assert not (tmp_path / "out").exists()


def test_an_archive_is_not_opened(tmp_path, build):
    (tmp_path / "in.zip").write_bytes(b"PK\5\6" + bytes(18))
    code, line = build("task=denoise", "source=photos", f"source.root={tmp_path / 'in.zip'}", f"out={tmp_path / 'o'}")
    assert code == 2 and "archives are not opened" in line


def test_recipes_compose_with_the_counts_of_the_original_experiment():
    low, toon, even = (
        composed([f"recipe={name}", "out=x"], "build") for name in ("itsd_low_level", "itsd_cartoon", "balanced")
    )
    assert {n: p.limit for n, p in low.parts.items()} == {"deblur": 1200, "derain": 686, "denoise": 8, "lowlight": 23}
    assert all(len(low.prompts[name].prompts) == 1 for name in low.parts) and list(low.splits) == ["train"]
    assert toon.parts.cartoon.limit == 5000 and len(set(toon.prompts.cartoon.prompts)) == 50
    assert len({part.limit for part in even.parts.values()}) == 1 and len(even.parts) == 5


def test_a_recipe_builds_several_tasks_into_one_dataset(tmp_path, build):
    roots = {"deblur": "reds", "derain": "rain13k", "denoise": "sidd_small", "lowlight": "lol_v1"}
    for name, _, patterns in CASES:
        if name in roots.values():
            grow(tmp_path / name, patterns)
    counts = {"deblur": 4, "derain": 3, "denoise": 2, "lowlight": 1}
    words = [f"parts.{task}.source.root={tmp_path / folder}" for task, folder in roots.items()]
    words += [f"parts.{task}.limit={count}" for task, count in counts.items()]
    code, line = build("recipe=itsd_low_level", f"out={tmp_path / 'out'}", *words)
    assert code == 0, line
    mark = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert mark["tasks"] == counts and mark["splits"] == {"train": 10}
