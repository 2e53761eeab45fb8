"""``ip2p-edit`` through its command: sizes, names, seeds, refusals. Pixels against diffusers: ``test_export.py``."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lightning.cli import edit as command
from ip2p_lightning.cli.edit import FAMILIAR, main, unlike
from ip2p_lightning.data.image import open_image
from ip2p_lightning.data.sources.image_files import warn_once
from ip2p_lightning.editing import photo_batches
from ip2p_lightning.editing.geometry import Fit
from ip2p_lightning.errors import StorageError
from ip2p_lightning.runs.trained_run import open_run
from ip2p_lightning.training.module import EditDiffusion
from tests.support.photos import PROMPT, edit, photo, pixels


@pytest.mark.parametrize("model", ["tiny_run", "sd_run"])
def test_size_and_name_are_the_photos(model, request, tmp_path):
    run = request.getfixturevalue(model)
    for output in ([], ["-o", tmp_path / "out.png"], ["-o", tmp_path / "deep" / "folder"]):
        assert edit(run, photo(tmp_path / "a b.jpg"), PROMPT, *output) == 0
    made = [tmp_path / "a b-edit.png", tmp_path / "out.png", tmp_path / "deep" / "folder" / "a b.png"]
    assert all(Image.open(path).size == (101, 67) for path in made)
    assert all(np.array_equal(pixels(made[0]), pixels(path)) for path in made)


def test_same_command_same_bytes_and_the_png_says_how_it_was_made(tiny_run, tmp_path):
    prompt, made = "fais-en un dessin animé, 漫画", tmp_path / "a-edit.png"
    words = (tiny_run, photo(tmp_path / "a.png"), prompt, "--seed", 5, "--overwrite")
    assert edit(*words) == 0
    first = made.read_bytes()
    assert edit(*words) == 0 and made.read_bytes() == first
    text = Image.open(made).text
    assert text["prompt"] == prompt and text["seed"] == "5"
    assert str(tiny_run) in text["run"] and "ema" in text["run"]
    assert text["command"].startswith("ip2p-edit ") and prompt in text["command"]


def test_an_instruction_unlike_any_that_was_trained_is_warned_of(tiny_run, tmp_path, capsys):
    opened = open_run(tiny_run)
    held_out = [prompt for task in opened.config["task"]["tasks"].values() for prompt in task["prompts"]["held_out"]]
    trained = [prompt for task in opened.config["task"]["tasks"].values() for prompt in task["prompts"]["prompts"]]
    assert min(opened.module.text_encoder.likeness(held_out, trained)) >= FAMILIAR and unlike(opened, held_out) == []
    strange = ["make it sepia", "zoom in", "повернись", "a unicorn on the moon"]
    assert unlike(opened, [*strange, PROMPT, "remove the noise", "mak it a cartoon"]) == strange
    assert edit(tiny_run, photo(tmp_path / "a.png"), strange[0]) == 0
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1 and strange[0] in said and "unlike every instruction" in said
    assert edit(tiny_run, photo(tmp_path / "b.png"), PROMPT) == 0 and "warning" not in capsys.readouterr().err


def test_a_turned_photo_is_edited_upright(tiny_run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(open_image(turned)).save(tmp_path / "upright.png")
    assert edit(tiny_run, turned, tmp_path / "upright.png", PROMPT) == 0
    assert Image.open(tmp_path / "turned-edit.png").size == (67, 101)
    assert np.array_equal(pixels(tmp_path / "turned-edit.png"), pixels(tmp_path / "upright-edit.png"))


def test_photos_that_the_model_sees_at_one_size_are_edited_together(sd_run, tmp_path, monkeypatch):
    seen, whole = [], EditDiffusion.edit

    def watched(self, x, prompts, *rest):
        seen.append((tuple(x.shape), *prompts))
        return whole(self, x, prompts, *rest)

    monkeypatch.setattr(EditDiffusion, "edit", watched)
    sizes = [(64, 48), (40, 56), (67, 50), (64, 48), (71, 55), (65, 48), (64, 49)]
    names = [photo(tmp_path / f"{i}.png", size, i) for i, size in enumerate(sizes)]
    assert edit(sd_run, *names, PROMPT, "-o", tmp_path / "out", "--batch-size", 4) == 0
    assert [shape for shape, *_ in seen] == [(3, 3, 48, 64), (3, 3, 48, 64), (1, 3, 56, 40)]  # not four and two
    assert edit(sd_run, *names, PROMPT, "-o", tmp_path / "alone", "--batch-size", 1) == 0
    for name, size in zip(names, sizes, strict=True):
        together, alone = (pixels(tmp_path / how / name.name) for how in ("out", "alone"))
        assert together.shape[1::-1] == size and np.abs(together - alone).max() <= 1


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_each_photo_with_its_own_instruction(sd_run, tmp_path, kind):
    wanted = [("a.png", "make it, say, a cartoon"), ("b.png", PROMPT), ("a.png", PROMPT), ("a.png", PROMPT)]
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        photo(tmp_path / "in" / name, (64, 48), seed)
    table = tmp_path / "in" / f"wishes.{kind}"
    rows = [f'{name},"{prompt}"' for name, prompt in wanted]
    lines = [json.dumps({"photo": name, "prompt": prompt}) for name, prompt in wanted]
    table.write_text("\n".join(["photo,prompt", *rows] if kind == "csv" else lines))
    assert edit(sd_run, "--prompts", table, "-o", tmp_path / "out") == 0
    made = {path.name: Image.open(path).text["prompt"] for path in (tmp_path / "out").iterdir()}
    assert made == {"a-1.png": wanted[0][1], "a-2.png": PROMPT, "b.png": PROMPT}  # the same wish twice is one
    assert edit(sd_run, tmp_path / "in" / "b.png", PROMPT, "-o", tmp_path / "lone.png") == 0
    assert np.abs(pixels(tmp_path / "lone.png") - pixels(tmp_path / "out" / "b.png")).max() <= 1
    assert edit(sd_run, "--prompts", table) == 0
    assert {p.name for p in (tmp_path / "in").glob("*-edit.png")} == {"a-1-edit.png", "a-2-edit.png", "b-edit.png"}


LISTS = {
    "line 2: 'b.png': no such file": "photo,prompt\nb.png,x\n",
    "line 3: field 'prompt' is empty": "photo,prompt\na.png,x\na.png,\n",
    "no field 'photo', it has foto, prompt; did you mean 'foto'": "foto,prompt\na.png,x\n",
    "no line with a photo": "photo,prompt\n",
    "fields, the header has": "photo,prompt\na.png,make it, say, a cartoon\n",
}


def test_a_bad_list_of_instructions_is_refused(tmp_path, refused):
    photo(tmp_path / "a.png")
    table = tmp_path / "wishes.csv"
    for word, text in LISTS.items():
        table.write_text(text)
        code, line = refused(main, "run", "--prompts", table)
        assert code == 3 and word in line, line
    assert [refused(main, "run", "--prompts", tmp_path / name)[0] for name in ("none.csv", "a.png")] == [2, 2]
    code, line = refused(main, "run", tmp_path / "a.png", "--prompts", table)
    assert code == 2 and "RUN alone" in line


def test_one_photo_in_two_spellings_is_one_photo(tiny_run, tmp_path, refused):
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in" / "a.png", (24, 16))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    spelt = ["in/a.png", "link/a.png", "in/../in/a.png", str(tmp_path / "in" / "a.png")]
    table = tmp_path / "wishes.csv"
    table.write_text("photo,prompt\n" + "".join(f"{name},wish {i}\n" for i, name in enumerate([*spelt, "in/a.png"])))
    for output in ([], ["-o", tmp_path / "out"]):
        assert edit(tiny_run, "--prompts", table, *output) == 0
    for folder, end in ((tmp_path / "in", "-edit"), (tmp_path / "out", "")):
        made = {path.name: Image.open(path).text["prompt"] for path in folder.glob(f"a-*{end}.png")}
        assert made == {f"a-{i + 1}{end}.png": f"wish {i}" for i in range(5)}
    assert edit(tiny_run, *(tmp_path / name for name in spelt), PROMPT, "-o", tmp_path / "once") == 0
    assert [path.name for path in (tmp_path / "once").iterdir()] == ["a.png"]
    names = tmp_path / "in" / "a.png", tmp_path / "out" / "a-1.png"
    assert refused(main, tiny_run, *names, PROMPT, "-o", tmp_path / ("x" * 256))[1].count("has 256 bytes")


def test_a_long_name_is_refused_early_or_written(tiny_run, tmp_path, refused):
    for count, code in ((246, 0), (251, 2)):  # with -edit.png: 255 and 260 bytes
        source = photo(tmp_path / "a.png", (24, 16)).rename(tmp_path / f"{'x' * (count - 4)}.jpg")
        if code:
            assert "has 256 bytes" in refused(main, "no-run", source, PROMPT)[1]
        else:
            assert edit(tiny_run, source, PROMPT) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "tRNS"])
def test_an_edit_keeps_its_photos_transparency(tiny_run, tmp_path, mode):
    rows = np.zeros((16, 24, 4), np.uint8)
    rows[:, :8], rows[:, 8:16], rows[:, 16:] = (200, 200, 200, 255), (40, 40, 40, 128), (90, 90, 90, 0)
    if mode in ("P", "tRNS"):
        rows[:, 8:16, 3] = 255
    image, options = Image.fromarray(rows), {}
    if mode == "P":
        image = image.quantize(4)
    elif mode == "tRNS":
        image, options = image.convert("RGB"), {"transparency": (90, 90, 90)}
    image.convert(mode if mode == "LA" else image.mode).save(tmp_path / "a.png", **options)
    Image.fromarray(open_image(tmp_path / "a.png")).save(tmp_path / "b.png")  # on white
    assert edit(tiny_run, tmp_path / "a.png", tmp_path / "b.png", PROMPT) == 0
    clear, plain = Image.open(tmp_path / "a-edit.png"), Image.open(tmp_path / "b-edit.png")
    assert (clear.mode, plain.mode) == ("RGBA", "RGB")
    assert np.array_equal(np.asarray(clear)[:, :, 3], rows[:, :, 3])
    seen = rows[:, :, 3] > 0
    shown = open_image(tmp_path / "a-edit.png").astype(int)[seen] - np.asarray(plain).astype(int)[seen]
    assert np.abs(shown).max() <= 1  # on white it is the edit of the photo on white


def test_throughput_is_told(sd_run, tmp_path, capsys):
    names = [photo(tmp_path / f"{i}.png", (64, 48), i) for i in range(3)]
    assert edit(sd_run, *names, PROMPT, "--steps", 2, "--image-scale", 1, "--throughput") == 0
    told = capsys.readouterr().out.splitlines()[-2:]
    assert re.fullmatch(r"3 images in [\d.]+ s: [\d.]+ images/s, [\d.]+ evaluations of the net/s", told[0])
    for part in ("encode", "sample", "decode", "wait", "load", "save"):
        assert re.search(rf"{part} \d+\.\d\d s", told[1]), told


def test_settings_reach_the_sampler(sd_run, tmp_path):
    source = photo(tmp_path / "a.png", (64, 48))

    def edited(*options):
        assert edit(sd_run, source, PROMPT, "-o", tmp_path / "o.png", "--overwrite", *options) == 0
        return pixels(tmp_path / "o.png")

    base = edited()
    assert np.array_equal(base, edited("--steps", 4))  # the run's own
    changed = [("--seed", 1), ("--steps", 2), ("--scheduler", "euler-a"), ("--weights", "raw"), ("--max-side", 32)]
    for option in [*changed, ("--text-scale", 3), ("--image-scale", 3)]:
        assert not np.array_equal(base, edited(*option)), option


def test_folders_and_globs(tiny_run, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.JPG", "c.jfif"):
        photo(tmp_path / "in" / name, (24, 16), **({"format": "JPEG"} if name == "c.jfif" else {}))
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "in" / "more").mkdir()
    warn_once.cache_clear()
    for asked, names in (("", {"a.png", "b.png", "c.png"}), ("[ab].*", {"a.png", "b.png"})):
        assert edit(tiny_run, tmp_path / "in" / asked, "-o", tmp_path / f"out{asked}", PROMPT) == 0
        assert {p.name for p in (tmp_path / f"out{asked}").iterdir()} == names
    assert "2 files are not used: more, notes.txt" in capsys.readouterr().err
    assert edit(tiny_run, tmp_path / "in", PROMPT) == 0
    assert edit(tiny_run, tmp_path / "in", PROMPT, "--overwrite") == 0  # edits are not edited again
    assert len(list((tmp_path / "in").glob("*-edit.png"))) == 3


def test_outputs_are_refused_before_a_model_is_read(tmp_path, refused, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "run"  # does not even exist
    a, twin = photo(tmp_path / "a.png"), tmp_path / "other"
    twin.mkdir()
    shutil.copy(a, twin / "a.png")
    photo(tmp_path / "a-edit.png", seed=3)
    before = (tmp_path / "a-edit.png").read_bytes()
    cases = {
        "exists": (model, a, PROMPT),
        "both be written": (model, a, twin / "a.png", PROMPT, "-o", tmp_path / "o"),
        "is a photo to be edited": (model, a, PROMPT, "-o", tmp_path, "--overwrite"),
        "written as PNG": (model, a, PROMPT, "-o", tmp_path / "o.jpg"),
        "folder for 2": (model, a, twin / "a.png", PROMPT, "-o", tmp_path / "o.png"),
        "at least one image": (model, PROMPT),
        "is the instruction": (model, a, a),
        "' is neither a run": (model, a, PROMPT, "-o", tmp_path / "o"),
        "'runs/demo' is neither": ("runs/demo", a, PROMPT, "-o", tmp_path / "o"),
        "unrecognized": (model, a, PROMPT, "--step", 3),
        "whole number": (model, a, PROMPT, "--batch-size", 0),
        "whole number of": (model, a, PROMPT, "--batch-size", "all"),
    }
    for word, words in cases.items():
        code, line = refused(main, *words)
        assert code == 2 and word in line, line
    assert (tmp_path / "a-edit.png").read_bytes() == before and not (tmp_path / "o").exists()


def test_bad_photos_are_refused_before_anything_is_written(tiny_run, tmp_path, refused):
    good = photo(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for name in ("bad.png", "cut.png", "empty", "missing.png", "*.gif", "phone"):
        code, line = refused(main, tiny_run, good, tmp_path / name, PROMPT, "-o", tmp_path / "out")
        assert code == 3 and name in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [(KeyboardInterrupt(), 130, "interrupted"), (StorageError("cannot write b: disk full"), 5, "disk full")],
)
def test_what_was_written_before_a_fault_stays(tiny_run, tmp_path, monkeypatch, capsys, fault, code, said):
    def stop(pixels, out, text, save=command._save):
        if out.name.startswith("b"):
            raise fault
        save(pixels, out, text)

    monkeypatch.setattr(command, "_save", stop)
    names = [photo(tmp_path / name, (24, 16)) for name in ("a.png", "b.png", "c.png")]
    assert edit(tiny_run, *names, PROMPT) == code
    out, err = capsys.readouterr()
    assert said in err and "a-edit.png" in out and "b-edit.png" not in out
    assert (tmp_path / "a-edit.png").exists() and not (tmp_path / "b-edit.png").exists()
    assert (tmp_path / "c-edit.png").exists() == ("c-edit.png" in out)


def test_a_photo_that_goes_away_is_told_and_what_came_before_it_stays(sd_run, tmp_path, monkeypatch, capsys):
    names = [photo(tmp_path / f"{i}.png", size, i) for i, size in enumerate([(64, 48), (40, 56), (32, 32)])]

    def late(batch, editor, read=photo_batches._read):
        names[1].unlink(missing_ok=True)
        return read(batch, editor)

    monkeypatch.setattr(photo_batches, "_read", late)
    assert edit(sd_run, *names, PROMPT, "--steps", 1) == 3
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and "1.png" in err and "0-edit.png" in out
    assert sorted(p.name for p in tmp_path.glob("*-edit.png")) == ["0-edit.png"]


def test_a_photo_too_large_for_the_memory_is_named(sd_run, tmp_path, monkeypatch, refused):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(EditDiffusion, "edit", fail)
    code, line = refused(main, sd_run, photo(tmp_path / "a.png"), PROMPT)
    assert code == 2 and "a.png" in line and "96 x 64" in line and "--max-side" in line


def test_models_that_do_not_fit_are_refused(tiny_run, sd_run, sd_folder, tmp_path, refused):
    cases = {
        "no image_scale": (tiny_run, "--image-scale", 2),
        "no scheduler": (tiny_run, "--scheduler", "ddim"),
        "cuda:9": (tiny_run, "--device", "cuda:9"),
        "give at most 1000": (sd_run, "--steps", 1001),
        "float16 needs a GPU": (tiny_run, "--dtype", "float16", "--device", "cpu"),
        "text-to-image": (sd_folder,),
        "is not a run": (tmp_path,),
    }
    for word, (model, *options) in cases.items():
        code, line = refused(main, model, photo(tmp_path / "a.png"), PROMPT, *options)
        assert code == 2 and word in line, line


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_pixel_model_sees_every_pixel_once(factor):
    lossless = SimpleNamespace(autoencoder=SimpleNamespace(factor=factor, model=None))
    for height, width in [(8, 8), (9, 15), (67, 101), (16, 24), (31, 8)]:
        source = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        fit = Fit.of(source.shape[1::-1], lossless)
        x = fit.to_model(source)
        assert x.shape[1] % 8 == 0 and x.shape[2] % 8 == 0 and x.shape[1] - height < 8 and x.shape[2] - width < 8
        assert np.array_equal(fit.back(x), source)


def test_a_latent_model_sees_the_multiple_below():
    latent = SimpleNamespace(autoencoder=SimpleNamespace(factor=8, model=object()))
    for side, size in ((None, (96, 64)), (50, (48, 32)), (500, (96, 64))):
        assert Fit.of((101, 67), latent, max_side=side).model == size
    assert Fit.of((9, 9), latent, max_side=8).model == (8, 8)
