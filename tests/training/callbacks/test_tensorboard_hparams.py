"""What TensorBoard itself answers about a sweep's folder, asked over HTTP as the browser does."""

import json
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.program import TensorBoard
from tensorboard.summary.writer.record_writer import RecordWriter

from ip2p_lightning.config.overrides import hyperparameters
from ip2p_lightning.runs.metrics_log import last_metrics
from ip2p_lightning.runs.trained_run import open_run
from ip2p_lightning.training.callbacks.tensorboard_hparams import metric_tags, pooled, prompt_sample, siblings
from tests.support.trained import train_run

TASKS = ["cartoon", "derain", "denoise", "lowlight"]
ARMS = {"prompts-name+seed-0": ("name", 0), "prompts-name+seed-1": ("name", 1)}
ARMS |= {"prompts-paraphrase+seed-0": ("paraphrase", 0)}
DIED = "prompts-name+seed-2"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Three runs of a sweep, validated at their end, and one that died after its first step."""
    folder = tmp_path_factory.mktemp("board") / "sweep"
    settings = ["~callbacks.image_grids", "log_every=1", "loader.eval_size=32", "optimizer.lr=1e-3"]
    for name, (prompts, seed) in ARMS.items():
        train_run(folder / name, f"prompts={prompts}", f"seed={seed}", "val_every=2", *settings)
    [path] = train_run(folder / DIED, "prompts=name", "seed=2", *settings).glob("events.out.tfevents.*")
    events = list(RawEventFileLoader(str(path)).Load())
    keep = next(i for i, event in enumerate(events) if b"train/loss" in event and b"custom_scalars" not in event)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for event in events[: keep + 1]:
            writer.write(event)
        writer.flush()
    return folder


@pytest.fixture(scope="module")
def ask(sweep):
    """What a TensorBoard of this process answers that has read all runs: of a route, with a body of JSON."""
    server = TensorBoard()
    words = ["--logdir", str(sweep), "--host", "127.0.0.1", "--port", "0", "--reload_interval", "1"]
    server.configure(["tensorboard", *words, "--load_fast", "false"])
    url = server.launch()

    def ask(route: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{url}data/plugin/{route}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return json.loads(answer.read())

    end, wanted = time.monotonic() + 40, {**dict.fromkeys(ARMS, "val/psnr"), DIED: "train/loss"}
    while not all(tag in ask("scalars/tags").get(name, ()) for name, tag in wanted.items()):
        assert time.monotonic() < end, "TensorBoard did not read the runs"
        time.sleep(0.3)
    return ask


def session_groups(ask) -> list[dict]:
    experiment = ask("hparams/experiment", {"experimentName": ""})
    columns = [{"hparam": info["name"], "includeInResult": True} for info in experiment["hparamInfos"]]
    columns += [{"metric": info["name"]} for info in experiment["metricInfos"]]
    statuses = [f"STATUS_{name}" for name in ("SUCCESS", "FAILURE", "RUNNING", "UNKNOWN")]
    asked = {"experimentName": "", "allowedStatuses": statuses, "colParams": columns, "startIndex": 0, "sliceSize": 100}
    return ask("hparams/session_groups", asked)["sessionGroups"]


def test_hparams_lists_every_job_with_its_overrides_and_metrics(ask, sweep):
    groups = {group["name"]: group for group in session_groups(ask)}
    assert set(groups) == {*ARMS, DIED}
    assert groups[DIED]["sessions"][0].get("status", "STATUS_UNKNOWN") != "STATUS_SUCCESS"
    for name, (prompts, seed) in ARMS.items():
        told = groups[name]["hparams"]
        assert (told["prompts"], told["seed"], told["optimizer.lr"]) == (prompts, seed, 0.001)
        values, last = {v["name"]["tag"]: v["value"] for v in groups[name]["metricValues"]}, last_metrics(sweep / name)
        assert set(values) == set(metric_tags(TASKS)) and min(values.values()) > 0
        assert values == pytest.approx({tag: last[tag] for tag in values}, rel=1e-5)
        assert groups[name]["sessions"][0]["status"] == "STATUS_SUCCESS"


def test_columns_are_the_overrides_and_the_declared_metrics(ask):
    experiment = ask("hparams/experiment", {"experimentName": ""})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"prompts", "seed", "optimizer.lr"} <= names
    assert not names & {"log_every", "hydra.run.dir"}  # they do not change what is learnt
    assert [info["name"]["tag"] for info in experiment["metricInfos"]] == metric_tags(TASKS)
    assert metric_tags(["a"])[:2] == ["val/psnr", "val/psnr/a"]


def test_a_chart_for_each_task(ask):
    categories = {c["title"]: c["chart"] for c in ask("custom_scalars/layout")["category"]}
    assert list(categories) == ["all tasks", *TASKS]
    for task in TASKS:
        charts = {chart["title"]: chart["multiline"]["tag"] for chart in categories[task]}
        assert charts["PSNR, model and identity"] == [f"val/psnr/{task}$", f"val/psnr_identity/{task}$"]
    query = urllib.parse.urlencode({"run": "prompts-name+seed-0", "tag": "val/psnr/derain$"})
    found = ask(f"custom_scalars/scalars?{query}")
    assert found["regex_valid"] and list(found["tag_to_events"]) == ["val/psnr/derain"]


def test_prompts_are_in_the_projector(ask, sweep):
    assert "prompts-paraphrase+seed-0" in ask("projector/runs")
    query = urllib.parse.urlencode({"run": "prompts-paraphrase+seed-0"})
    [embedding] = ask(f"projector/info?{query}")["embeddings"]
    assert embedding["tensorName"].startswith("prompts") and embedding["tensorShape"][1] == 64
    metadata = sweep / "prompts-paraphrase+seed-0" / embedding["metadataPath"]
    rows = [line.split("\t") for line in metadata.read_text().splitlines()]
    assert rows[0] == ["task", "pool", "prompt"] and len(rows) - 1 == embedding["tensorShape"][0] > 200
    assert {row[0] for row in rows[1:]} == set(TASKS) and {row[1] for row in rows[1:]} == {"seen", "held out"}


def test_prompt_sample_is_limited_and_fair():
    pools = {t: SimpleNamespace(prompts=[f"{t}{i}" for i in range(500)], held_out=[f"{t}h"] * 9) for t in TASKS}
    rows = list(prompt_sample(pools, 300))
    assert len(rows) == 300 and {task: sum(r[0] == task for r in rows) for task in TASKS} == dict.fromkeys(TASKS, 75)
    assert sum(row[1] == "held out" for row in rows) == 36


def test_pooled_is_the_state_of_the_end_token(tiny_run):
    module = open_run(tiny_run).module
    prompts = ["derain", "remove the rain from this photo, please", "rain " * 100]
    encoder = module.text_encoder
    with torch.no_grad():
        wanted = torch.stack([encoder.encode([prompt])[0, min(encoder.count(prompt), 64) - 1] for prompt in prompts])
    torch.testing.assert_close(pooled(module, prompts), wanted, rtol=1e-4, atol=1e-5)


def test_hyperparameters_are_scalars_of_what_matters():
    words = ["prompts=name", "+a.b=1e-4", "seed=3", "x=true", "+callbacks.fault.spec=x", "~c", "s='a b'", "hydra.x=1"]
    found = hyperparameters({"overrides": words})
    assert found == {"prompts": "name", "a.b": 1e-4, "seed": 3, "x": True, "c": "removed", "s": "a b"}
    assert hyperparameters({}) == {}


def test_siblings_are_the_runs_beside(sweep):
    assert [path.name for path in siblings(sweep / "prompts-name+seed-0")] == sorted([*ARMS, DIED])
