"""``ip2p-cache RUN`` or ``ip2p-cache OVERRIDES``: encode every stored view of a run's pairs before it trains."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.config.hydra_errors import explain
from ip2p_lightning.errors import UserError, exit_code

USAGE = """usage: ip2p-cache RUN                       fill the cache of a run's folder
       ip2p-cache [GROUP=MEMBER ...] [KEY=VALUE ...]   ... of the run that ip2p-train would make of these words

Encodes what is not in the cache yet; stopped, it goes on where it was. Several may fill one cache at a time."""


def main(words: Sequence[str] | None = None) -> int:
    """The console command."""
    given = list(sys.argv[1:] if words is None else words)
    if {"-h", "--help"} & set(given):
        print(USAGE)
        return 0
    return exit_code(lambda: _fill(given))


def _run(words: list[str]) -> Path | None:
    """The folder that the words are; None: they are overrides."""
    return Path(words[0]) if len(words) == 1 and "=" not in words[0] else None


def _config(words: list[str]) -> dict[str, Any]:
    """The checked config of a run's folder, or of a command line. Raises UserError and its kin."""
    for word in words:
        if word.startswith("-"):  # Hydra's own: -m, -cd, -cn
            raise UserError(
                f"{word} is no word of ip2p-cache, which fills the cache of one run: give its folder, or its "
                "GROUP=MEMBER and KEY=VALUE words; see ip2p-cache --help"
            )
    run = _run(words)
    if run is not None:
        from ip2p_lightning.runs.open import model_config

        return model_config(run)
    from ip2p_lightning.config.build import checked
    from ip2p_lightning.config.compose import composed

    try:
        return checked(composed(word for word in words if not word.startswith("hydra.")))
    except Exception as error:
        raise explain(error, words) from None


def _unread(config: Mapping[str, Any], run: Path | None) -> str:
    """Why the run will not read what is stored for it, "" where it will."""
    from ip2p_lightning.training.cache_choice import noted

    if config["cache"] == "off":
        return "the run has cache=off and will not read it; cache=disk does"
    reason = (noted(run) or {}).get("reason") if run is not None and config["cache"] == "auto" else None
    if reason:
        return f"the run began without ({reason}) and will not read it; cache=disk 'resume_allow=[cache]' does"
    return ""


def _fill(words: list[str]) -> int:
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from tqdm import tqdm

    from ip2p_lightning.config import build
    from ip2p_lightning.data.bad_pairs import RECORD, BadPairs
    from ip2p_lightning.data.latent_cache.cache import Cache
    from ip2p_lightning.data.latent_cache.fill import fill_all
    from ip2p_lightning.data.latent_cache.settings import settings_of

    config = _config(words)
    settings = settings_of(config)
    data = build.build_data(config)
    data.setup("fit")
    cache = Cache(replace(settings, mode="disk"), data, _autoencoder(config))
    print(cache.summary())  # with its size, before anything is written
    if cache.reason:
        return 0
    unread = _unread(config, _run(words))
    if unread:
        print(f"cache: {unread}")
    with TemporaryDirectory() as folder:  # a run's own list is of what it left out when
        bad = BadPairs(Path(folder) / RECORD, data.loader.max_bad)
        with tqdm(total=cache.entries, unit="pair", desc="cache") as bar:  # ends its line before an error's
            started = time.perf_counter()
            for done in fill_all(cache, data.loader, bad if bad.most else None):
                bar.set_postfix_str(f"{2 * done / (time.perf_counter() - started):.1f} images/s", refresh=False)
                bar.update(done - bar.n)
        left_out = bad.lines()
    state = cache.state()
    print(f"complete: {cache.entries} entries; computed {state['filled']}, rebuilt {state['damaged']} damaged ones")
    for pair in left_out:
        print(f"left out, because it could not be read: {pair['reason']}")
    if state["uncached"]:
        print(f"not stored: {state['uncached']}, whose files changed while they were read; fill it again")
    return 0


def _autoencoder(config: Mapping[str, Any]) -> Any:
    """The run's autoencoder alone, on its device: the UNet is not needed."""
    import torch

    from ip2p_lightning.config.build import build

    torch.set_float32_matmul_precision(config.get("matmul_precision", "highest"))
    on_gpu = torch.cuda.is_available() and config["trainer"].get("accelerator") != "cpu"
    return build(config["autoencoder"]).to("cuda" if on_gpu else "cpu")


if __name__ == "__main__":
    sys.exit(main())
