"""Every experiment is a sweep whose arms are good configs, and has a page for its answer."""

import itertools
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import open_dict

from ip2p_lightning.cli.report import BEGIN, END
from ip2p_lightning.config.build import checked
from ip2p_lightning.config.compose import CONF, run_name

FOLDER = Path(__file__).parents[2] / "experiments"
EXPERIMENTS = sorted(FOLDER.glob("*.yaml"))


def composed(name: str, overrides: list[str]):
    """An experiment's config as ``ip2p-train -cd experiments -cn NAME`` composes it, Hydra's own node included."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        search = f"hydra.searchpath=[file://{CONF.resolve()}]"  # the other way round, no primary config would be found
        return compose(name, overrides=[search, *overrides], return_hydra_config=True)


def arms(name: str) -> list[list[str]]:
    """The overrides of each job of an experiment's grid."""
    sweep = composed(name, []).hydra.sweeper.params
    axes = OverridesParser.create().parse_overrides([f"{key}={values}" for key, values in sweep.items()])
    words = [[f"{axis.key_or_group}={value}" for value in axis.sweep_string_iterator()] for axis in axes]
    return [list(arm) for arm in itertools.product(*words)]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_arm_is_a_good_config(path):
    jobs, names = arms(path.stem), set()
    for arm in jobs:
        config = composed(path.stem, arm)
        assert str(config.hydra.mode).endswith("MULTIRUN") and config.hydra.job.config_name == path.stem
        names.add(run_name(arm))
        with open_dict(config):
            config.pop("hydra")
        checked(config)
    assert len(names) == len(jobs) > 1


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_its_page_asks_and_has_room_for_the_answer(path):
    text = path.with_suffix(".md").read_text()
    assert text.count(BEGIN) == 1 and text.count(END) == 1 and text.index(BEGIN) < text.index(END)
    assert "**Question.**" in text and "## Answer" in text and f"-cn {path.stem}" in text
