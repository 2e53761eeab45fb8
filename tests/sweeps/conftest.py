"""Hydra's own loader of this project's configs, as its sweepers and launchers have it."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ip2p_lightning.config.compose import CONF


@pytest.fixture
def loader():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
    GlobalHydra.instance().clear()
