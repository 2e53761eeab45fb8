"""``ip2p-evaluate`` through its command: what it writes, and that the numbers are right."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.cli.evaluate import main
from ip2p_lightning.config import build
from ip2p_lightning.evaluation.score_table import COLUMNS, counted, current, read
from ip2p_lightning.runs.folder import read_config
from ip2p_lightning.runs.metrics_log import read_metrics
from tests.support.material import pairs_folder
from tests.support.trained import train_run

TASKS = ["cartoon", "derain", "denoise", "lowlight"]


@pytest.fixture(scope="module")
def scored(tiny_run, tmp_path_factory):
    """A copy of the tiny run, evaluated once."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(tiny_run, folder)
    assert main([str(folder)]) == 0
    return folder


@pytest.fixture
def run(scored, tmp_path):
    """A copy of that, to write into."""
    return shutil.copytree(scored, tmp_path / "run")


def table(folder):
    return list(csv.DictReader((folder / "scores.csv").open()))


def lines(folder, ending="test-seen"):
    return [json.loads(line) for line in (folder / f"scores-{ending}.jsonl").read_text().splitlines()]


def outputs(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith(("scores", "sheet"))}


def test_table_has_a_row_per_task_and_method(scored):
    assert (scored / "scores.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    rows = table(scored)
    found = {(row["task"], row["method"]) for row in rows}
    assert found == {(t, m) for t in TASKS for m in ("model", "identity", "wrong_instruction")} and len(rows) == 12
    assert {(row["run"], row["split"], row["prompts"]) for row in rows} == {("run", "test", "seen")}
    assert all(int(row["n"]) >= 1 and 0 < float(row["psnr"]) <= 100 and -1 <= float(row["ssim"]) <= 1 for row in rows)


def test_without_photos_to_spare_a_run_goes_without_validation_and_is_not_scored(tmp_path, capsys):
    pairs_folder(tmp_path / "in", 5, size=(32, 32))
    words = ["data=folder", f"data.root={tmp_path / 'in'}", "data.val=0", "data.test=0", "task=own"]
    words += ["task.prompts.prompts=[make it red]", "val_every=1"]
    train_run(tmp_path / "run", *words)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data: ")]
    assert len(said) == 1 and "own: no in val, no in test" in said[0] and "there is no validation" in said[0]
    assert not any(key.startswith("val/") for line in read_metrics(tmp_path / "run") for key in line)
    for split in ("test", "val"):
        assert main([str(tmp_path / "run"), "--split", split]) == 3
        line = capsys.readouterr().err
        assert f"no pair for '{split}'" in line and "folders train, val and test" in line and line.count("\n") == 1


def test_same_command_same_bytes_and_a_table_with_gains_and_places(run, capsys):
    before = outputs(run)
    assert main([str(run)]) == 0
    assert outputs(run) == before and len(before) == 3
    out, err = capsys.readouterr()
    for word in (*TASKS, "gain", "wrong instruction", "scores.csv", "sheet-test-seen.png", "scores-test-seen.jsonl"):
        assert word in out
    assert "error" not in err and "Warning" not in err


def test_identity_is_the_hand_computed_distance_of_the_pair(scored):
    data = build.build_data(read_config(scored))
    scores = {}
    for batch in data.test_dataloader():
        a, b = (np.rint((x.double().numpy() + 1) * 127.5) / 255 for x in (batch.original, batch.edited))
        for task, mse in zip(batch.task, ((a - b) ** 2).mean((1, 2, 3)), strict=True):
            scores.setdefault(task, []).append(10 * np.log10(1 / mse))
    for row in table(scored):
        if row["method"] == "identity":
            assert float(row["psnr"]) == pytest.approx(np.mean(scores[row["task"]]), abs=2e-3)
            assert int(row["n"]) == len(scores[row["task"]])


def test_means_are_those_of_the_images(scored):
    for row in table(scored):
        mine = [line for line in lines(scored) if (line["task"], line["method"]) == (row["task"], row["method"])]
        assert float(row["psnr"]) == pytest.approx(np.mean([line["psnr"] for line in mine]), abs=1e-4)
        assert float(row["ssim"]) == pytest.approx(np.mean([line["ssim"] for line in mine]), abs=1e-5)


def test_wrong_instruction_is_another_tasks(scored):
    pools = {name: task.prompts for name, task in build.build_data(read_config(scored)).active.items()}
    for line in lines(scored):
        following = TASKS[(TASKS.index(line["task"]) + 1) % 4]
        if line["method"] == "model":
            assert line["prompt"] in pools[line["task"]].prompts
        if line["method"] == "wrong_instruction":
            assert line["prompt"] in pools[following].prompts


def test_other_rows_stay_and_equal_ones_are_replaced(run, capsys):
    seen = (run / "scores.csv").read_text()
    assert main([str(run), "--prompts", "heldout", "--sheet-examples", "0"]) == 0
    assert "held-out instructions" in capsys.readouterr().out
    assert (run / "scores.csv").read_text().startswith(seen) and len(table(run)) == 24
    pools = {name: task.prompts for name, task in build.build_data(read_config(run)).active.items()}
    said = [line for line in lines(run, "test-heldout") if line["method"] == "model"]
    assert all(line["prompt"] in pools[line["task"]].held_out for line in said)
    assert main([str(run), "--seed", "3", "--sheet-examples", "0"]) == 0
    assert len(table(run)) == 36  # another seed replaces nothing
    assert main([str(run), "--weights", "raw", "--sheet-examples", "0"]) == 0
    quoted = current(read(run / "scores.csv"))
    assert len(table(run)) == 48 and len(quoted) == 24 and {row["weights"] for row in quoted} == {"ema"}
    assert main([str(run), "--overwrite", "--sheet-examples", "0"]) == 0
    assert (run / "scores.csv").read_text() == seen


def test_batches_do_not_change_what_is_scored(run):
    before = lines(run)
    assert main([str(run), "--batch-size", "1", "--sheet-examples", "0"]) == 0
    key = lambda line: (line["task"], line["id"], line["draw"], line["method"])  # noqa: E731
    for old, new in zip(sorted(before, key=key), sorted(lines(run), key=key), strict=True):
        assert key(old) == key(new) and old["prompt"] == new["prompt"]
        assert new["psnr"] == pytest.approx(old["psnr"], abs=1e-2)


def test_another_sampler_is_scored_beside_the_runs_own(run, capsys):
    before = outputs(run)
    assert main([str(run), "--steps", "3", "--sheet-examples", "1"]) == 0
    assert outputs(run) == before and "speed" in capsys.readouterr().out
    found = outputs(run / "steps-3")
    assert set(found) == set(before) and len(table(run / "steps-3")) == 12
    assert min(Image.open(run / "steps-3" / "sheet-test-seen.png").size) > 4 * 192
    changed = [a["psnr"] != b["psnr"] for a, b in zip(lines(run), lines(run / "steps-3"), strict=True)]
    assert any(changed) and not all(changed)  # the identity baseline has no steps


def test_a_lone_task_has_no_wrong_instruction(sd_run, tmp_path, capsys):
    run = shutil.copytree(sd_run, tmp_path / "run")
    assert main([str(run), "--weights", "raw", "--split", "val", "--sheet-examples", "1"]) == 0
    assert (
        {line["method"] for line in lines(run, "val-seen")}
        == {"model", "identity"}
        == {r["method"] for r in table(run)}
    )
    assert {line["weights"] for line in lines(run, "val-seen")} == {"raw"}
    assert "wrong instruction" not in capsys.readouterr().out
    assert Image.open(run / "sheet-val-seen.png").width < 4 * 192  # three columns


def test_photos_and_draws_are_counted_apart(run, capsys):
    assert main([str(run), "--draws", "3", "--sheet-examples", "0"]) == 0
    out, found = capsys.readouterr().out, {line["id"] for line in lines(run) if line["task"] == "derain"}
    count = len([line for line in lines(run) if (line["task"], line["method"]) == ("derain", "model")])
    assert count == 3 * len(found) and f"{len(found)} photo{'s' * (len(found) > 1)} x 3 draws" in out
    assert [counted(*n) for n in ((1, 1), (2, 24), (3, 10))] == [
        "1 photo x 1 draw",
        "2 photos x 12 draws",
        "3 photos, 10 draws",
    ]


def test_bad_input_is_one_line(run, tmp_path, refused):
    options = [("--split", "tset"), ("--batch-size", "0"), ("--steps", "0"), ("--dtype", "half")]
    options += [("--image-scale", "2"), ("--scheduler", "ddim")]  # of a sampler that it does not have
    for words in ((), (tmp_path,), (tmp_path / "nowhere",), *((run, *option) for option in options)):
        assert refused(main, *words)[0] == 2
    assert not [p for p in run.iterdir() if p.is_dir() and "scale" in p.name]
    (run / "scores.csv").write_text("a,b\n1,2\n")
    code, line = refused(main, run, "--sheet-examples", "0")
    assert code == 6 and "scores.csv" in line and (run / "scores.csv").read_text() == "a,b\n1,2\n"
    config = read_config(run)
    config["task"]["_target_"] = "os.system"
    (run / "config.json").write_text(json.dumps(config))
    assert refused(main, run)[0] == 7
