"""The same scalars, pictures and hyperparameters in every logger, against the real packages, without a network."""

import json
import os
import struct
import subprocess
import sys

import pytest

from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.runs.metrics_log import last_metrics
from tests.support.sweeping import TRAIN
from tests.support.trained import SMALL, train_run

WORDS = ["model=tiny", "task=denoise", "loader.eval_size=32", "val_every=2", "log_every=1", "optimizer.lr=1e-3"]
GRID = "val/grid"


def scalars(run) -> dict[str, float]:
    """The last of each scalar in ``metrics.jsonl``."""
    return {key: value for key, value in last_metrics(run).items() if key != "step"}


@pytest.mark.full
def test_mlflow_has_what_tensorboard_has(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = train_run(tmp_path / "run", *WORDS, "logger=[tensorboard,mlflow]")
    train_run(tmp_path / "run", *WORDS, "logger=[tensorboard,mlflow]", "trainer.max_steps=3", "resume_allow=[trainer]")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "ip2p-lightning"]
    [found] = client.search_runs([experiment.experiment_id])  # the continued run is one
    assert found.info.run_id == read_status(run)["mlflow"] and found.info.status == "FINISHED"
    assert found.data.metrics == pytest.approx(scalars(run), rel=1e-5)
    assert {"task": "denoise", "optimizer.lr": "0.001"}.items() <= found.data.params.items()
    artifacts = [file.path for file in client.list_artifacts(found.info.run_id)]
    assert {"config.yaml", "shares.json", "images"} <= set(artifacts)
    assert any("grid" in file.path for file in client.list_artifacts(found.info.run_id, "images"))
    assert tensorboard(run).Tags()["images"] == [GRID]


@pytest.mark.full
def test_wandb_has_what_tensorboard_has(tmp_path):
    pytest.importorskip("wandb")
    run = tmp_path / "run"  # trained in a process of its own: Weights & Biases completes its file as that one exits
    words = [*SMALL, *WORDS, "logger=[tensorboard,wandb]", "logger.wandb.offline=true", f"hydra.run.dir={run}"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    subprocess.run([*TRAIN, *words], check=True, env=clean)
    [file] = run.glob("wandb/offline-run-*/*.wandb")
    history, config = {}, {}
    for record in wandb_records(file.read_bytes()):
        for item in record.history.item:
            history["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        for item in (*record.config.update, *record.run.config.update):
            config["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert {k: history[k] for k in scalars(run)} == pytest.approx(scalars(run), rel=1e-5)
    assert history[f"{GRID}/count"] == 1 and config["task"] == "denoise" and config["optimizer.lr"] == 0.001
    assert config["config"]["trainer"]["max_steps"] == 2 and read_status(run)["wandb"] in file.name
    assert tensorboard(run).Tags()["images"] == [GRID]


def wandb_records(data: bytes):
    """The records of an offline run's file: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, record, head, block = 7, b"", 7, 32768
    while place + head <= len(data):
        if block - place % block < head:
            place += block - place % block
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + head : place + head + length]
        place += head + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return events


def test_a_run_without_loggers_keeps_its_metrics(tmp_path):
    run = train_run(tmp_path / "run", *WORDS, "logger=[]", "callbacks=[]")
    assert scalars(run)["train/loss"] > 0 and not list(run.glob("events*")) and not (run / "samples").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line(name, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"ip2p_lightning.training.loggers.{name}", raising=False)
    with pytest.raises(AssertionError, match="ended with 2"):
        train_run(tmp_path / "run", f"logger={name}")
    assert capsys.readouterr().err == f"error: logger.{name} needs {name}: pip install 'ip2p-lightning[{name}]'\n"
