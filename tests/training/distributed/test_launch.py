"""Two ranks (gloo, on the CPU) through the real command: same numbers, no rank left behind, exact resume."""

import signal
import time
from collections import Counter

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy

from ip2p_lightning.config import build
from ip2p_lightning.runs.folder import read_status
from ip2p_lightning.runs.metrics_log import read_metrics
from tests.support.models import bare_trainer, config_of, module_of
from tests.support.processes import Process, digest, run
from tests.support.ranks import LIMIT, WORDS, ended, processes_of, step, torchrun, train, validations
from tests.support.sweeping import await_that


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two ranks; three validation examples, so that one rank has two of them and the other one."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, said = train(folder)
    assert code == 0, said
    return folder


def test_two_ranks_train_one_model(whole):
    assert read_status(whole)["state"] == "complete" and read_status(whole)["step"] == 4
    assert [line["step"] for line in read_metrics(whole) if "train/loss" in line] == [1, 2, 3, 4]
    assert (whole / "samples/step-000004.png").exists() and not processes_of(whole)


def test_validation_over_uneven_shards_is_that_of_one_process(whole):
    logged, alone, count = validations(whole)
    assert count == 3 and logged.keys() == alone.keys()  # odd
    assert logged == pytest.approx(alone, abs=1e-6, rel=0)


def test_killed_ranks_are_resumed_exactly_by_either_launcher(whole, tmp_path):
    folder = tmp_path / "run"
    said, _ = (process := torchrun(folder, "fault=kill@step=3,rank=1")).communicate(timeout=LIMIT)
    assert process.returncode == 1 and read_status(folder)["state"] == "failed", said

    process = Process([*WORDS, f"hydra.run.dir={folder}"], tmp_path / "log")
    assert process.until(lambda: len(processes_of(folder)) == 2, LIMIT)
    process.send(signal.SIGKILL)  # ranks end with the process that started them
    process.wait(LIMIT)
    await_that(lambda: not processes_of(folder))

    started = time.perf_counter()
    code, said = train(folder, "fault=kill@step=3,rank=1")
    status = read_status(folder)
    assert code == 1 and status["state"] == "failed" and "killed" in status["reason"], said
    assert not processes_of(folder) and time.perf_counter() - started < 120

    said, _ = (process := torchrun(folder)).communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert digest(folder) == digest(whole) and [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]


@pytest.fixture
def started_by_torchrun():
    """What torchrun tells two ranks, whose store is in this process."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {"TORCHELASTIC_RUN_ID": "1", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1"}
    group |= {"MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    yield [group | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    del store


NO_GROUP = "torchrun started 2 processes, but trainer.strategy=auto is one process; use trainer=ddp"
UNFIT = {"trainer.strategy=auto": NO_GROUP, "trainer.devices=3": "but trainer.devices=3; use trainer.devices=auto"}


@pytest.mark.parametrize(("word", "told"), [*UNFIT.items(), ("task=nosuch", "nosuch")])
def test_what_does_not_fit_the_launcher_is_one_line(tmp_path, started_by_torchrun, word, told):
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "model=tiny", word]
    line = [*words, f"hydra.run.dir={tmp_path}/run"]
    ranks = [Process(line, tmp_path / "log", place) for place in started_by_torchrun]
    assert [rank.wait(LIMIT) for rank in ranks] == [2, 2]
    assert [told in line for line in ranks[0].said().splitlines()] == [True]
    assert not (tmp_path / "run").exists()


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
    module, data = module_of(*words), build.build_data(config_of(*words))
    strategy = DDPStrategy(broadcast_buffers=False, process_group_backend="gloo")
    options = {"devices": 1, "callbacks": [Count()], "default_root_dir": tmp_path}
    trainer = bare_trainer(strategy=strategy, max_steps=3, accumulate_grad_batches=4, **options)
    try:
        trainer.fit(module, datamodule=data)
    finally:
        torch.distributed.destroy_process_group()
    buckets = 1 + sum(p.numel() * 4 for p in module.parameters()) // (25 << 20)
    assert trainer.fit_loop.epoch_loop.batch_progress.total.completed == 12
    assert 3 <= calls["buckets"] <= 3 * (buckets + 1)  # 12 micro-steps, three reductions


def test_a_rank_that_hangs_ends_the_run(tmp_path):
    folder = tmp_path / "run"
    words = [*WORDS, "timeout=8", "val_every=0", "fault=hang@step=1,rank=1"]
    grace = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3"}  # torchrun waits 30 s for a rank that does not react
    code, said = run([*words, f"hydra.run.dir={folder}"], tmp_path / "log", LIMIT, **grace)
    assert code != 0 and read_status(folder)["state"] == "failed", said
    assert not processes_of(folder)
    waiting, _, hanging = said.partition("stacks of rank 0")[2].partition("stacks of rank 1")
    assert "in training_step" in waiting and "in _hang" in hanging, said


def test_groups_side_by_side_whose_job_ids_end_alike_do_not_meet(whole, tmp_path):
    """Lightning would take both ports from the last digits of SLURM_JOB_ID."""
    steps = {job: step(tmp_path / job, job=job) for job in ("12340001", "22340001")}
    for job, processes in steps.items():
        codes, said = ended(processes)
        assert codes == [0, 0], said
        assert digest(tmp_path / job) == digest(whole)  # and torchrun's ranks train what srun's train


def test_under_srun_too_a_killed_rank_ends_the_others_and_is_resumed_exactly(whole, tmp_path):
    codes, said = ended(step(tmp_path / "run", "fault=kill@step=3,rank=0"))
    assert codes[0] == -signal.SIGKILL and codes[1] == 1, said
    codes, said = ended(step(tmp_path / "run"))
    assert codes == [0, 0], said
    assert digest(tmp_path / "run") == digest(whole)


def test_under_srun_rank_0_prints_the_stacks_of_all_ranks(tmp_path):
    words = ("timeout=8", "val_every=0", "fault=hang@step=1,rank=1")
    first, hanging = step(tmp_path / "run", *words)
    assert first.wait(LIMIT) == 1
    hanging.kill_group()  # as srun does
    waiting, _, other = first.said().partition("stacks of rank 0")[2].partition("stacks of rank 1")
    assert "in training_step" in waiting and "in _hang" in other, first.said()
