"""``ip2p-train`` in processes of its own: what a run leaves behind, and what is refused."""

import time

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ip2p_lightning.runs import checkpoint
from ip2p_lightning.runs import folder as run_folder
from ip2p_lightning.runs.folder import read_config, read_status
from ip2p_lightning.runs.metrics_log import read_metrics
from ip2p_lightning.system.files import read_json
from tests.support.pieces import write_pairs
from tests.support.processes import QUIET, SMALL, digest, run
from tests.support.sd_checkpoint import write_sd_checkpoint

TASKS = ("cartoon", "derain", "denoise", "lowlight")
TINY = [*SMALL, "model=tiny", "unet.widths=[8,16,16]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of eight steps on four tasks."""
    work = tmp_path_factory.mktemp("train")
    code, said = run([*TINY, f"hydra.run.dir={work}/run"], work / "log")
    assert code == 0, said
    return work / "run"


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


# -- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["loader.workers=0"], ["loader.workers=2"], ["seed=1", *QUIET]])
def test_the_same_command_gives_the_same_bits_and_another_seed_others(finished, tmp_path, words):
    code, said = run([*TINY, *words, f"hydra.run.dir={tmp_path}/run"], tmp_path / "log")
    assert code == 0, said
    assert (digest(tmp_path / "run") == digest(finished)) == ("seed=1" not in words)


def test_a_run_leaves_what_is_promised(finished):
    status, config = read_status(finished), read_config(finished)
    assert (status["state"], status["step"], status["exit_code"]) == ("complete", 8, 0)
    assert config["trainer"]["max_steps"] == 8 and config["loader"]["size"] == 32
    assert {p.name for p in (finished / "samples").iterdir()} == {"step-000004.png", "step-000008.png"}
    assert list(finished.glob("events.out.tfevents*"))
    kept = checkpoint.checkpoints(finished)
    assert [checkpoint.step_of(p) for p in kept] == [8, 4] and not any(checkpoint.damage(p) for p in kept)
    assert set(read_json(finished / "data.json")) == {f"{task}/{part}" for task in TASKS for part in ("train", "val")}


def test_the_metrics_are_lines_of_json(finished):
    lines = list(read_metrics(finished))
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8]
    assert all(np.isfinite(v) for line in lines for v in line.values())
    scores = ("psnr", "ssim", "psnr_identity", "ssim_identity")
    assert {f"val/{score}/{task}" for score in scores for task in TASKS} <= set(lines[-1])
    wanted = {"train/lr", "train/grad_norm", "train/images_per_s", "train/skipped_steps"}
    assert wanted <= {key for line in lines for key in line}


def test_tensorboard_reads_the_scalars_pictures_and_config(finished):
    tags = EventAccumulator(str(finished), size_guidance={"tensors": 0, "images": 0}).Reload().Tags()
    assert {"train/loss", "val/psnr/derain", "val/psnr_identity/derain"} <= set(tags["scalars"])
    assert "val/grid" in tags["images"] and any(tag.startswith("config") for tag in tags["tensors"])


def test_a_finished_run_says_so_and_touches_nothing(finished, tmp_path):
    before, started = snapshot(finished), time.perf_counter()
    code, said = run([*TINY, f"hydra.run.dir={finished}"], tmp_path / "log")
    assert (code, said.strip()) == (0, f"already complete: {finished}")
    assert snapshot(finished) == before and time.perf_counter() - started < 15


def test_a_dry_run_leaves_nothing(tmp_path):
    code, said = run([*TINY, "--dry-run", f"hydra.run.dir={tmp_path}/run"], tmp_path / "log")
    assert code == 0 and "nothing was trained" in said
    assert not (tmp_path / "run").exists()


# -- refusals --------------------------------------------------------------------------------------------------------


def refused(words, work, code, *told):
    started = time.perf_counter()
    got, said = run([*SMALL, *QUIET, *words, f"hydra.run.dir={work}/runs/train/x"], work / "log")
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(("train:", "cache:", "data:"))]
    assert got == code, said
    assert len(lines) == 1 and lines[0].startswith("error: ") and all(word in lines[0] for word in told), said
    assert time.perf_counter() - started < 30  # ten seconds, on a machine that others use too
    return lines[0]


def unmatched(pairs):
    (pairs / "target" / "0003.png").unlink()


def of_another_size(pairs):
    for path in (pairs / "target").iterdir():
        Image.new("RGB", (48, 48)).save(path)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (unmatched, ["0003.png", "no image named '0003' in 'target'"]),
        (of_another_size, ["sizes differ", "64 x 64 and 48 x 48"]),
    ],
)
def test_bad_pairs_are_one_line_and_leave_nothing(tmp_path, harm, told):
    pairs = write_pairs(tmp_path / "pairs", 8, size=64) / "train"
    harm(pairs)
    refused(
        ["data=folder", f"data.root={pairs.parent}", "task=own", "task.prompts.prompts=[edit the image]"],
        tmp_path,
        3,
        *told,
    )
    if harm is unmatched:  # known before the run begins
        assert not (tmp_path / "runs").exists()
    else:
        assert not checkpoint.checkpoints(tmp_path / "runs/train/x")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["task=denoise", "prompts.denoise.prompts=[]"], 3, "prompt"),
        (["task=derian"], 2, "did you mean 'derain'"),
        (["data=folder", "data.root=/no/such/folder"], 2, "/no/such/folder"),
        (["data=folder", "data.root={pairs}", "task=own"], 2, "'task.prompts.prompts=[make it sepia]'"),
        (["data=manifest", "data.path={pairs}/../some.csv", "task=own"], 2, "'task.prompts.prompts=[make it sepia]'"),
        (["-cd", "nowhere", "-cn", "first_light"], 2, "-cn first_light"),
        (["-cn", "first_lihgt"], 2, "did you mean 'first_light'"),
    ],
)
def test_bad_words_are_one_line_and_leave_nothing(words, code, told, tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 4) / "train"  # of the manifest's pairs, one has no instruction
    lines = [f"train/input/{i:04d}.png,train/target/{i:04d}.png,{'' if i == 2 else 'redden'},train" for i in range(4)]
    (pairs.parent / "some.csv").write_text("\n".join(["original,edited,prompt,split", *lines]) + "\n")
    refused([word.format(pairs=pairs) for word in words], tmp_path, code, told)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("channels", [None, 9])
def test_what_shows_only_when_the_run_begins_is_recorded_and_can_be_mended(tmp_path, channels):
    words, told = ["model=sd15"], ["stable-diffusion-v1-5/stable-diffusion-v1-5", "hf download", "model.path=DIR"]
    if channels:
        path = write_sd_checkpoint(tmp_path / "odd", in_channels=channels)
        words, told = ["model=local", f"model.path={path}"], ["channels", "9"]
    line = refused(words, tmp_path, 2, *told)
    folder = tmp_path / "runs/train/x"
    status = read_status(folder)
    assert (status["state"], status["exit_code"]) == ("failed", 2)
    assert line.removeprefix("error: ")[:60] in status["reason"]
    assert not checkpoint.checkpoints(folder)
    code, said = run([*TINY, *QUIET, "trainer.max_steps=1", f"hydra.run.dir={folder}"], tmp_path / "log")
    assert code == 0, said


def test_a_folder_that_holds_a_run_can_be_refused(finished, tmp_path):
    before = snapshot(finished)
    code, said = run([*TINY, "resume=never", f"hydra.run.dir={finished}"], tmp_path / "log")
    assert code == 2 and "already holds step-000008.ckpt" in said and said.count("\n") == 1, said
    assert snapshot(finished) == before


def test_two_runs_never_share_a_folder(tmp_path):
    first, second = run_folder.claim(tmp_path / "x"), run_folder.claim(tmp_path / "x")
    assert (first.path.name, second.path.name) == ("x", "x@2")
    first.lock.close()
    assert run_folder.claim(tmp_path / "x").path.name == "x"
