"""Launchers without a training: which jobs they refuse, and what becomes of a job that cannot even be begun."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from ip2p_lightning.config import CONF
from ip2p_lightning.errors import UserError
from ip2p_lightning.launchers import LocalLauncher, SlurmLauncher
from ip2p_lightning.launchers.job import make_jobs


@pytest.fixture
def ready(tmp_path, monkeypatch) -> Iterator[Callable]:
    """A launcher as Hydra's sweeper has it, of a sweep in the test's folder."""
    monkeypatch.setattr(LocalLauncher, "outcomes", [])
    GlobalHydra.instance().clear()

    def setup(launcher, folder: Path = tmp_path / "sweep"):
        loader = GlobalHydra.instance().config_loader()
        words = [f'hydra.sweep.dir="{folder}"']
        config = loader.load_configuration("train", words, run_mode=RunMode.MULTIRUN)
        launcher.setup(hydra_context=SimpleNamespace(config_loader=loader), task_function=None, config=config)
        return launcher

    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        yield setup
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("kind", [LocalLauncher, SlurmLauncher])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["loader.workers=0", "loader.workers=1"], r"loader\.workers=0.*loader\.workers=1.*folder default"),
        (["cache_dir=a_b", "cache_dir=a/b"], r"cache_dir=a_b.*cache_dir=a/b.*folder cache_dir-a_b"),
        (["seed=3", "seed=3"], r"jobs 0 and 1 are the same \(seed=3\)"),
    ],
)
def test_jobs_that_would_share_a_folder_are_refused(ready, tmp_path, kind, words, named):
    launcher = ready(kind())
    with pytest.raises(UserError, match=named):
        launcher.launch([[word] for word in words], 0)
    if words[0] != words[1]:  # in an earlier batch
        LocalLauncher.outcomes = make_jobs(launcher.context, launcher.config, [words[:1]], 0)
        with pytest.raises(UserError, match=named):
            launcher.launch([words[1:]], 1)
    assert not list(tmp_path.iterdir())
