"""From Hydra's composed config to plain data: dicts, lists and scalars."""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ip2p_lightning.config.interpolation import refuse_resolvers
from ip2p_lightning.config.overrides import is_free
from ip2p_lightning.config.walk import scalars
from ip2p_lightning.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_PLACE = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent  # of a wheel, or of a checkout
CONF, EXPERIMENTS = _PLACE / "conf", _PLACE / "experiments"


def run_name(overrides: Iterable[str], limit: int = 120) -> str:
    """The last part of a run's folder: its overrides as a file name, without the keys that may differ when it goes on.

    At most `limit` bytes; what is longer ends in a hash of all of it.
    """
    given = sorted(word for word in overrides if not is_free(word.lstrip("+~").partition("=")[0]))
    text = "+".join(given).replace("=", "-")
    name = "".join("_" if c in "/\\ '\"{}[]()$&;|<>*?!" else c for c in text) or "default"
    if len(name.encode()) <= limit:
        return name
    return f"{name.encode()[: limit - 9].decode(errors='ignore')}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def composed(words: Iterable[str], name: str = "train", **more: Any) -> Any:
    """Hydra's config of ``GROUP=MEMBER`` and ``KEY=VALUE`` words. Raises Hydra's exceptions (see `hydra_errors`)."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return compose(name, overrides=list(words), **more)


def plain(config: Any) -> dict[str, Any]:
    """The config resolved to dicts, lists and scalars.

    Raises UserError: a mandatory value is missing, or an interpolation points nowhere. SecurityError: an interpolation
    that is more than a path.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} has no value; give it on the command line: {missing[0]}=VALUE")
    refuse_resolvers(typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=False)))
    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with (old, new); a key that one side lacks counts as None there."""
    a, b = dict(scalars(old)), dict(scalars(new))
    return {k: (a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}
