"""What the benchmarks' command lines have in common: options from their defaults, a run's config, a quiet child."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from types import GenericAlias
from typing import Any

TRAIN, CACHE, DATA = "ip2p_lightning.cli.train", "ip2p_lightning.cli.cache", "ip2p_lightning.cli.data"  # the commands
WORK = Path("/tmp/ip2p-bench")  # checkpoints and pairs that later runs find again
ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
ALONE |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def options(doc: str | None, words: Sequence[str] | None = None, /, **defaults: Any) -> argparse.Namespace:
    """The command line: an option for each default, of its type.

    A tuple holds the choices, the default first; a list takes several values; a class makes a required argument,
    and a list of a class any number of them.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, GenericAlias):
            parser.add_argument(name, nargs="*", type=default.__args__[0])
        elif isinstance(default, type):
            parser.add_argument(name, type=default)
        elif isinstance(default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            parser.add_argument(option, choices=default, default=default[0])
        elif isinstance(default, list):
            parser.add_argument(option, nargs="+", type=type(default[0]), default=default)
        else:
            parser.add_argument(option, type=type(default), default=default)
    return parser.parse_args(words)


def environment() -> dict[str, str]:
    """Of a child: one thread, no network, no GPU."""
    return os.environ | ALONE


def config_of(words: list[str]) -> dict[str, Any]:
    """The checked config of ``ip2p-train WORDS``."""
    from hydra import compose, initialize_config_dir

    from ip2p_lightning.config import build
    from ip2p_lightning.config.compose import CONF

    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return build.checked(compose("train", overrides=words))
