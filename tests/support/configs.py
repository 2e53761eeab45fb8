"""Composed and checked configs of a command line, or the refusal it would print."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ip2p_lightning.config.build import checked
from ip2p_lightning.config.compose import CONF
from ip2p_lightning.config.hydra_errors import explain


def config_of(*words: str) -> dict:
    """What ``ip2p-train WORDS`` would train, or the refusal it would print."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            return checked(compose("train", overrides=list(words)))
    except Exception as error:
        raise explain(error, words) from None
