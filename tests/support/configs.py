"""Composed and checked configs of a command line, or the refusal it would print."""

import functools

from ip2p_lightning.config.build import checked
from ip2p_lightning.config.compose import composed
from ip2p_lightning.config.hydra_errors import explain

_composed = functools.cache(composed)  # half a second each; the check, which reads the environment, is made anew


def config_of(*words: str) -> dict:
    """What ``ip2p-train WORDS`` would train, or the refusal it would print."""
    try:
        return checked(_composed(words))
    except Exception as error:
        raise explain(error, words) from None
