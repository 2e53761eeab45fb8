"""Runs that several test files look at: trained once a session, through the real command, in a second or two."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; the models here are too small for more
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl

import ip2p_lightning  # noqa: F401  first: it makes torchvision importable

torch.set_num_threads(1)

from tests.support.trained import train_run  # noqa: E402

COMPOSE = ConfigLoaderImpl.load_configuration
LONG = ["test_local_launcher", "test_launch", "test_resume", "test_fsdp", "test_optuna_sweeper", "test_optimizers"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes does not begin last: a file's tests share a worker, and the other would wait for it."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> object:
    """A command run in this process guards Hydra for the process's whole life; who comes next finds it as it was."""
    try:
        return (yield)
    finally:
        ConfigLoaderImpl.load_configuration = COMPOSE


def pytest_runtest_teardown() -> None:
    ConfigLoaderImpl.load_configuration = COMPOSE


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The embedded model after two steps on all four tasks."""
    return train_run(tmp_path_factory.mktemp("tiny") / "run", "model=tiny")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[int, str]:
    """Tiny random checkpoints in Stable Diffusion's layout: of 4 channels, text to image; of 8, an editor."""
    from tests.support.sd_checkpoint import write_sd_checkpoint

    root = tmp_path_factory.mktemp("sd")
    return {n: str(write_sd_checkpoint(root / str(n), in_channels=n)) for n in (4, 8)}


@pytest.fixture(scope="session")
def sd_folder(checkpoints) -> Path:
    return Path(checkpoints[4])


@pytest.fixture(scope="session")
def sd_run(tmp_path_factory, sd_folder) -> Path:
    """That checkpoint, fine-tuned for two large steps on one task, so that its averaged and raw weights differ."""
    settings = ["loader.resize=null", "task=denoise", "optimizer.lr=1e-2", "sampler.steps=4"]
    return train_run(tmp_path_factory.mktemp("sd-run") / "run", "model=local", f"model.path={sd_folder}", *settings)


@pytest.fixture
def refused(capsys):
    """Run a command that must refuse: its exit code and its one line."""

    def run(main, *words) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (out, err)
        return code, err

    return run
