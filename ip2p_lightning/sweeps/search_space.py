"""Converts Hydra's overrides to Optuna's distributions, and a trial's values back to overrides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ip2p_lightning.errors import UserError
from ip2p_lightning.runs.optuna_storage import import_optuna


def read_space(words: Sequence[str], config_loader: Any) -> tuple[dict[str, Any], list[str]]:
    """Divide overrides into the search space and those of every trial; a later one wins. Raises UserError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    space: dict[str, Any] = {}
    fixed: dict[str, str] = {}
    for word, parsed in zip(words, OverridesParser.create(config_loader).parse_overrides(list(words)), strict=True):
        key = parsed.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if parsed.is_sweep_override():
            space[key] = _distribution(parsed, word)
        else:
            fixed[key] = word
    return space, list(fixed.values())


def _distribution(override: Any, word: str) -> Any:
    import optuna.distributions as kinds

    value = override.value()
    log = "log" in getattr(value, "tags", ())
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        low, high = value.start, value.end
        if (log and low <= 0) or low >= high:
            raise UserError(f"{word}: give a lower and a higher end" + (", both above 0 for log" if log else ""))
        return (kinds.IntDistribution if whole else kinds.FloatDistribution)(low, high, log=log)
    if override.is_range_sweep() and not value.shuffle:
        return _range(value, word)
    if override.is_discrete_sweep():
        from hydra.core.override_parser.types import Transformer

        return kinds.CategoricalDistribution(list(override.sweep_iterator(transformer=Transformer.encode)))
    raise UserError(f"{word}: not a search space; give interval(a,b), range(a,b), choice(a,b) or a,b")


def _range(value: Any, word: str) -> Any:
    """Hydra's ranges exclude their end, Optuna's include it."""
    import optuna.distributions as kinds

    start, step = value.start or 0, value.step
    count = math.ceil((value.stop - start) / step)
    if count < 1:
        raise UserError(f"{word}: an empty range")
    low, high = sorted((start, start + (count - 1) * step))
    whole = all(isinstance(v, int) for v in (start, value.stop, step))
    return (kinds.IntDistribution if whole else kinds.FloatDistribution)(low, high, step=abs(step))


def overrides_of(params: Mapping[str, Any]) -> list[str]:
    """A trial's values as overrides; floats have six digits, for readable folder names."""
    return [f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items()]


def flat(params: Mapping[str, Any], path: str = "") -> list[str]:
    """``params`` of the sweeper's config, with nested or dotted keys, as overrides."""
    words = []
    for key, value in params.items():
        here = f"{path}.{key}" if path else str(key)
        words += flat(value, here) if isinstance(value, Mapping) else [f"{here}={value}"]
    return words


def make_sampler(name: str, seed: int, space: Mapping[str, Any]) -> Any:
    """A sampler by name. Raises UserError for another name, a missing package or an unsuitable space."""
    samplers = import_optuna().samplers
    known = {
        "tpe": lambda: samplers.TPESampler(seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
        "cmaes": lambda: samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        "gp": lambda: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
        "nsgaii": lambda: samplers.NSGAIISampler(seed=seed),
        "qmc": lambda: samplers.QMCSampler(seed=seed, warn_independent_sampling=False, warn_asynchronous_seeding=False),
        "grid": lambda: _grid(samplers.GridSampler)({key: _points(key, d) for key, d in space.items()}, seed=seed),
    }
    if name not in known:
        raise UserError(f"hydra.sweeper.sampler={name}: no such sampler; known: {', '.join(known)}")
    try:
        return known[name]()
    except ImportError as error:
        raise UserError(f"hydra.sweeper.sampler={name}: {str(error).splitlines()[0]}") from None


def _grid(sampler: type) -> type:
    """Optuna's grid sampler, without its ``Study.stop`` at the last point, which ask-and-tell does not allow."""
    return type("Grid", (sampler,), {"after_trial": lambda self, *_: None})


def _points(key: str, distribution: Any) -> list[Any]:
    """All values of a discrete distribution."""
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    if distribution.step is None or distribution.log:
        raise UserError(f"hydra.sweeper.sampler=grid: {key} is continuous; give range(...) or choice(...)")
    values = (distribution.low + i * distribution.step for i in itertools.count())
    return list(itertools.takewhile(lambda v: v <= distribution.high + 1e-12, values))
