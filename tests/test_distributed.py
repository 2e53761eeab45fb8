"""Two ranks (gloo, on the CPU) through the real command: same numbers, no rank left behind, exact resume."""

import json
import signal
import time
from collections import Counter

import psutil
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from models import config_of, module_of
from processes import SMALL, Process, digest, run

from ip2p_lightning import recipe, runs
from ip2p_lightning.callbacks import ValidationScores
from ip2p_lightning.runs import read_status

GROUP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
WORDS = [
    *GROUP,
    *SMALL[1:],
    "model=tiny",
    "task.weights={cartoon: 0}",
    "trainer.max_steps=4",
    "save_every=2",
    "log_every=1",
]
WORDS += [
    "trainer.accumulate_grad_batches=2",
    "grid_examples=1",
    "val_every=4",
    "val_examples=1",
    "loader.eval_draws=1",
]
LIMIT = 300
pytestmark = pytest.mark.xdist_group("ranks")  # four processes at a time are enough for two cores


def train(folder, *more, words=WORDS):
    return run([*words, "timeout=60", *more, f"hydra.run.dir={folder}"], folder.parent / "log", LIMIT)


def workers_of(folder):
    """Every living process that was started for the run in `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and "ip2p_lightning.worker" in line:
            found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two ranks; three validation examples, so that one rank has two of them and the other one."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, said = train(folder)
    assert code == 0, said
    return folder


def test_two_ranks_train_one_model(whole):
    assert read_status(whole)["state"] == "complete" and read_status(whole)["step"] == 4
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert Counter(line["step"] for line in lines if "train/loss" in line) == {1: 1, 2: 1, 3: 1, 4: 1}
    assert (whole / "samples/step-000004.png").exists() and not workers_of(whole)


def test_validation_over_uneven_shards_is_that_of_one_process(whole):
    last = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()][-1]
    opened = runs.open_run(whole)
    scores, data = ValidationScores(), recipe.build_data(opened.config)
    data.val_examples = opened.config["val_examples"]
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=[scores], inference_mode=False, **quiet)
    trainer.validate(opened.module, datamodule=data, verbose=False)
    assert len(data.val_dataloader().keys.keys) == 3  # odd
    values = {key: value for key, value in last.items() if key.startswith("val/")}
    assert values.keys() == scores.latest.keys()
    assert all(value == pytest.approx(scores.latest[key], abs=1e-5, rel=1e-6) for key, value in values.items())


def test_a_killed_rank_and_a_stop_are_resumed_exactly(whole, tmp_path):
    folder = tmp_path / "run"
    started = time.perf_counter()
    code, said = train(folder, "fault=kill@step=3,rank=1")
    status = read_status(folder)
    assert code == 1 and status["state"] == "failed" and "killed" in status["reason"], said
    assert not workers_of(folder) and time.perf_counter() - started < 120

    process = Process([*WORDS, "timeout=60", f"hydra.run.dir={folder}"], tmp_path / "log")
    assert process.until(lambda: len(workers_of(folder)) >= 2, LIMIT)
    process.send(signal.SIGTERM)
    code = process.wait(LIMIT)
    assert code == 143 and read_status(folder)["state"] == "preempted", process.said()
    assert not workers_of(folder)

    code, said = train(folder)
    assert code == 0, said
    assert digest(folder) == digest(whole)


def test_gradients_are_summed_over_the_ranks_once_a_step(tmp_path):
    calls = Counter()

    class Count(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.strategy.model.register_comm_hook(None, counted)

    def counted(state, bucket):
        calls["buckets"] += 1
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    words = ("model=tiny", "loader.batch_size=1")
    module, data = module_of(*words), recipe.build_data(config_of(*words))
    strategy = DDPStrategy(broadcast_buffers=False, process_group_backend="gloo")
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    options = {"accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "default_root_dir": tmp_path}
    trainer = Trainer(
        strategy=strategy, max_steps=3, accumulate_grad_batches=4, callbacks=[Count()], **options, **quiet
    )
    try:
        trainer.fit(module, datamodule=data)
    finally:
        torch.distributed.destroy_process_group()
    buckets = 1 + sum(p.numel() * 4 for p in module.parameters()) // (25 << 20)
    assert trainer.fit_loop.epoch_loop.batch_progress.total.completed == 12
    assert 3 <= calls["buckets"] <= 3 * (buckets + 1)  # 12 micro-steps, three reductions


def test_a_rank_that_hangs_ends_the_run(tmp_path):
    folder = tmp_path / "run"
    words = [*WORDS, "timeout=15", "val_every=0", "fault=hang@step=1,rank=1"]
    code, said = run([*words, f"hydra.run.dir={folder}"], tmp_path / "log", LIMIT)
    assert code != 0 and read_status(folder)["state"] == "failed", said
    assert not workers_of(folder)


@pytest.mark.slow
def test_four_groups_started_at_once_all_finish(tmp_path):
    words = [*WORDS, "val_every=0", "timeout=300"]
    jobs = [Process([*words, f"hydra.run.dir={tmp_path}/{i}"], tmp_path / f"log{i}") for i in range(4)]
    assert [job.wait(900) for job in jobs] == [0] * 4, [job.said() for job in jobs]
    assert len({digest(tmp_path / str(i)) for i in range(4)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_either_rank_may_be_killed_anywhere(whole, tmp_path, rank):
    folder = tmp_path / "run"
    for step in (0, 1, 2, 3):
        assert train(folder, f"fault=kill@step={step},rank={rank}")[0] == 1
        assert not workers_of(folder)
    assert train(folder)[0] == 0
    assert digest(folder) == digest(whole)
