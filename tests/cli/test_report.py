"""``ip2p-report`` on made-up run folders, whose numbers a hand can check."""

import csv
import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from ip2p_lightning.cli.report import BEGIN, END, main
from ip2p_lightning.evaluation.report.configurations import compare
from ip2p_lightning.evaluation.report.markdown import readable_command
from ip2p_lightning.evaluation.report.runs import collect

TASKS = ("cartoon", "derain")
LAUNCHED = "python -m ip2p_lightning.cli.train --config-name"
COMMAND = LAUNCHED + " first_light --config-dir {here}/experiments prompts={p} seed={s} hydra.mode=RUN"


def make_run(folder: Path, overrides: dict, psnr: float | None, state="complete", reason=None, **status) -> Path:
    """A run's folder as ip2p-train and ip2p-evaluate leave it; `psnr` of cartoon, derain has 1 dB more."""
    folder.mkdir(parents=True)
    config = {"seed": overrides.get("seed", 0), "loader": {"batch_size": 4}, "optimizer": {"lr": 0.001}}
    config["trainer"] = {"devices": 1, "accumulate_grad_batches": 2}
    (folder / "config.json").write_text(json.dumps(config))
    words = [f"{key}={value}" for key, value in overrides.items()]
    known = {"state": state, "reason": reason, "overrides": words, "commit": "abc1234", "step": 20, **status}
    (folder / "status.json").write_text(json.dumps(known))
    speed = {"train/images_per_s": 8.0, "train/peak_memory_mb": 500.0, "train/loss": 1.0}
    lines = [{"step": 10, **speed}, {"step": 20, **speed}, {"step": 20, **validation(30.0)}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 21, "tr')
    if psnr is not None:
        rows = ["run,step,weights,sampler,seed,dtype,draws,method,task,split,prompts,psnr,ssim,n"]
        for method, base in (("model", psnr), ("identity", 20.0), ("wrong_instruction", 18.0)):
            rows += [
                f"x,20,ema,steps=1,0,float32,4,{method},{task},test,heldout,{base + i},0.9,5"
                for i, task in enumerate(TASKS)
            ]
        (folder / "scores.csv").write_text("\n".join(rows) + "\n")
    return folder


def validation(psnr: float) -> dict:
    scores = {"val/psnr": psnr}
    for task in TASKS:
        scores |= {f"val/psnr/{task}": psnr, f"val/psnr_identity/{task}": 25.0}
        scores |= {f"val/ssim/{task}": 0.8, f"val/ssim_identity/{task}": 0.7}
    return scores


@pytest.fixture
def sweep(tmp_path) -> Path:
    """Two configurations of two seeds, one that failed, one that was preempted, one that never began."""
    folder = tmp_path / "runs" / "sweep"
    for prompts, base in (("name", 22.0), ("paraphrase", 26.0)):
        for seed in (0, 1):
            command = COMMAND.format(here=Path.cwd(), p=prompts, s=seed)
            wanted = {"prompts": prompts, "seed": seed, "loader.size": 32}
            make_run(folder / f"{prompts}-{seed}", wanted, base + seed, command=command)
    make_run(folder / "bad", {"prompts": "single"}, None, "failed", "NonFiniteError: step 3")
    make_run(folder / "stopped", {"prompts": "template"}, 40.0, "preempted", "SIGTERM")
    (folder / "refused").mkdir()
    (folder / "refused" / "log.txt").write_text("hello\nerror: unknown key lrr=1; did you mean 'lr'?\n")
    return folder


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_means_ranges_gains_baselines_costs_failures_and_commands(sweep):
    assert main([str(sweep)]) == 0
    text = (sweep / "report.md").read_text()
    rows = rows_of(text)
    assert ["identity", "", "20.00", "21.00", "20.50"] in rows
    assert ["prompts=name", "0, 1", "22.50 (22.00–23.00)", "23.50 (23.00–24.00)", "23.00 (22.50–23.50)"] in rows
    assert ["&emsp;gain", "", "+6.50 (+6.00 to +7.00)", "+6.50 (+6.00 to +7.00)", "+6.50 (+6.00 to +7.00)"] in rows
    assert ["&emsp;wrong instruction", "", "18.00", "19.00", "18.50"] in rows
    assert "**26.50 (26.00–27.00)**" in text and "**22.50" not in text  # the better configuration stands out
    assert "all with `loader.size=32`" in text and "4 of 7 runs complete" in text
    assert "validation photos" not in text  # evaluated runs are judged by their evaluation
    # costs, failures, commands and commits
    assert ["prompts=name", "2", "20", "160", "20", "8.0", "500"] in rows  # 20 steps x 4 x 2 images at 8 a second
    assert ["failed", "NonFiniteError: step 3", "1", "`bad`"] in rows
    assert ["preempted", "SIGTERM", "1", "`stopped`"] in rows
    assert ["not started", "unknown key lrr=1; did you mean 'lr'?", "1", "`refused`"] in rows
    assert ["`name-1`", "complete", "1", "20", "abc1234"] in rows
    assert "ip2p-train -cn first_light -cd experiments prompts=name seed=1\n" in text


def test_csv_has_every_run_and_score_and_the_same_runs_give_the_same_bytes(sweep):
    outputs = []
    for _ in range(2):
        assert main([str(sweep), "-o", str(sweep / "all.md")]) == 0
        outputs.append([(sweep / f"all.{kind}").read_bytes() for kind in ("md", "csv", "png")])
    assert outputs[0] == outputs[1]
    rows = list(csv.DictReader((sweep / "all.csv").open()))
    found = [r for r in rows if (r["run"], r["method"], r["task"]) == ("paraphrase-1", "model", "derain")]
    assert len(found) == 1 and found[0]["psnr"] == "28.0000" and found[0]["configuration"] == "prompts=paraphrase"
    assert {r["run"] for r in rows} >= {"bad", "stopped", "refused"}
    assert Image.open(sweep / "all.png").size[0] > 500


def test_update_leaves_the_prose(sweep, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Question\n\nWhy?\n\n{BEGIN}\nold\n{END}\n\n## Answer\n\nBecause ä.\n")
    assert main([str(sweep), "--update", str(page)]) == 0
    once = page.read_text()
    assert once.startswith(f"# Question\n\nWhy?\n\n{BEGIN}\n") and once.endswith(f"{END}\n\n## Answer\n\nBecause ä.\n")
    assert "old" not in once and "![" in once and "(page.png)" in once and (tmp_path / "page.csv").is_file()
    assert main([str(sweep), "--update", str(page)]) == 0
    assert page.read_text() == once


def test_scores_of_an_earlier_step_and_of_no_number_are_named(sweep):
    early, wrong = sweep / "name-0" / "scores.csv", sweep / "name-1" / "scores.csv"
    early.write_text(early.read_text().replace("x,20,", "x,12,"))
    wrong.write_text(wrong.read_text().replace(",24.0,", ",nan,"))
    assert main([str(sweep)]) == 0
    text = (sweep / "report.md").read_text()
    assert "`name-0` (scored at step 12 of 20)" in text
    assert ["not a number", "scores of derain are not finite", "1", "`name-1`"] in rows_of(text)
    assert ["prompts=name", "0", "22.00", "23.00", "22.50"] in rows_of(text)


def test_runs_of_one_name_in_two_folders_are_two(tmp_path):
    for folder, psnr in (("a", 20.0), ("b", 30.0)):
        make_run(tmp_path / folder / "run" / "x", {"prompts": "name"}, psnr)
    found = collect([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert [run.name for run in found] == ["a/run/x", "b/run/x"]
    assert main([str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"), "-o", str(tmp_path / "r.md")]) == 0
    assert ["all runs", "0", "25.00 (20.00–30.00)"] in [row[:3] for row in rows_of((tmp_path / "r.md").read_text())]


def test_names_and_reasons_are_text_in_tables(tmp_path):
    make_run(tmp_path / "=cmd()", {"prompts": "=1+1"}, 20.0)
    make_run(tmp_path / "bad", {}, None, "failed", "<img src=x onerror=alert(1)> ![a](http://b)")
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "<img" not in text and "](http" not in text and "&lt;img src=x" in text
    cells = {cell for row in csv.reader((tmp_path / "report.csv").open()) for cell in row}
    assert "'=cmd()" in cells and not [cell for cell in cells if cell.startswith(("=", "@"))]


def test_seeds_are_those_that_were_scored(sweep):
    (sweep / "name-1" / "scores.csv").unlink()
    assert main([str(sweep)]) == 0
    text = (sweep / "report.md").read_text()
    rows = rows_of(text)
    assert "validation photos" in text
    assert [row[:3] for row in rows if row[0] == "prompts=name"][:1] == [["prompts=name", "0", "22.00"]]
    assert ["prompts=name", "1", "30.00", "30.00", "30.00"] in rows  # its last validation, in a table of its own


def test_by_chooses_the_keys_of_a_configuration(sweep):
    found = compare(collect([sweep]), ["loader.size"])
    assert found.configurations() == ["loader.size=32"] and found.shared == {"loader.size": 32}
    assert found.runs["configuration"].count() == 4
    first = compare(collect([sweep]), ["optimizer.lr", "prompts"]).configurations()[0]
    assert first == "optimizer.lr=0.001 prompts=name"


def test_configurations_are_in_the_order_of_their_numbers(tmp_path):
    for value in (10, 9, 0.5):
        make_run(tmp_path / f"run{value}", {"a.b": value}, 20)
    assert compare(collect([tmp_path])).configurations() == ["a.b=0.5", "a.b=9", "a.b=10"]


def test_configurations_with_data_of_their_own_have_their_own_identity_baseline(tmp_path):
    make_run(tmp_path / "a", {"task": "x"}, 25)
    other = make_run(tmp_path / "b", {"task": "y"}, 25)
    table, row = (other / "scores.csv").read_text(), "identity,cartoon,test,heldout,"
    (other / "scores.csv").write_text(table.replace(f"{row}20.0", f"{row}11.0"))
    assert main([str(tmp_path)]) == 0
    rows = rows_of((tmp_path / "report.md").read_text())
    assert ["task=x: identity", "0", "20.00", "21.00", "20.50"] in rows
    assert ["task=y: identity", "0", "11.00", "21.00", "16.00"] in rows


def test_a_sweep_in_which_all_failed_has_a_report_too(tmp_path):
    make_run(tmp_path / "bad", {}, None, "failed", "a | b")
    make_run(tmp_path / "dead", {}, None, "running")  # whose process is gone
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "0 of 2 runs complete" in text and "![" not in text
    assert "a \\| b" in text and ["killed", "no reason was recorded", "1", "`dead`"] in rows_of(text)


def test_a_real_run(tiny_run, tmp_path):
    assert main([str(tiny_run), "-o", str(tmp_path / "r.md")]) == 0
    text = (tmp_path / "r.md").read_text()
    assert "1 of 1 runs complete" in text and "ip2p-train" in text


def test_commands_are_as_one_would_type_them():
    folder = shlex.quote("hydra.run.dir='/x'")
    assert readable_command(f"{LAUNCHED} train a=1 'b=[1, 2]' {folder} hydra.mode=RUN") == "ip2p-train a=1 'b=[1, 2]'"
    assert readable_command("ip2p-train hydra.run.dir=runs/demo") == "ip2p-train hydra.run.dir=runs/demo"
    assert readable_command("other 'x") == "other 'x"


def test_bad_input_is_one_line(sweep, tmp_path, refused):
    page = tmp_path / "page.md"
    page.write_text("no markers")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    wrong = [[], [tmp_path / "nowhere"], [tmp_path / "empty"]]
    wrong += [[sweep, "--update", page] for page in (page, tmp_path / "none.md")]
    wrong += [[sweep, "-o", page] for page in (page, tmp_path / "report.txt", tmp_path / "no" / "folder.md")]
    for words in [*wrong, [sweep, "-o", page, "--update", page]]:
        assert refused(main, *words)[0] == 2, words
    code, line = refused(main, sweep, "--by", "prompt")
    assert code == 2 and "did you mean 'prompts'" in line
    assert sorted(tmp_path.rglob("*")) == before and page.read_text() == "no markers"
    (sweep / "bad" / "config.json").write_text("{")
    assert refused(main, sweep)[0] == 6
