"""``ip2p-cache RUN`` or ``ip2p-cache OVERRIDES``: fill a run's latent cache before it trains."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lightning.cli.parser import Parser, run

EXAMPLES = """
Encodes what is not in the cache yet; the same command continues after a stop. Several may fill one cache at a time.

examples:
  ip2p-cache runs/demo                    fill the cache of a run
  ip2p-cache model=local task=derain      ... of ip2p-train with the same overrides
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    parser = Parser("ip2p-cache", "Encode a run's images once, before it trains.", EXAMPLES)
    parser.add_argument("words", nargs="*", metavar="RUN|OVERRIDES", help="a run's folder, or overrides of ip2p-train")
    return run(parser, _fill, argv)


def _run(words: list[str]) -> Path | None:
    """The run's folder; None if the words are overrides."""
    return Path(words[0]) if len(words) == 1 and "=" not in words[0] else None


def _config(words: list[str]) -> dict[str, Any]:
    """The checked config of a run's folder, or of overrides."""
    if folder := _run(words):
        from ip2p_lightning.runs.trained_run import model_config

        return model_config(folder)
    from ip2p_lightning.config.build import checked
    from ip2p_lightning.config.compose import composed
    from ip2p_lightning.config.hydra_errors import explain

    try:
        return checked(composed(word for word in words if not word.startswith("hydra.")))
    except Exception as error:
        raise explain(error, words) from None


def _unread(config: Mapping[str, Any], run: Path | None) -> str:
    """Why the run will not read what is stored for it, "" where it will."""
    from ip2p_lightning.runs.folder import read_status

    if config["cache"] == "off":
        return "the run has cache=off and will not read it; cache=disk does"
    chosen = read_status(run).get("cache") if run is not None and config["cache"] == "auto" else None
    if chosen and chosen.get("reason"):
        reason = chosen["reason"]
        return f"the run began without ({reason}) and will not read it; cache=disk 'resume_allow=[cache]' does"
    return ""


def _fill(args: argparse.Namespace) -> None:
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from tqdm import tqdm

    from ip2p_lightning.config import build
    from ip2p_lightning.data.bad_pairs import RECORD, BadPairs
    from ip2p_lightning.data.latent_cache.cache import Cache
    from ip2p_lightning.data.latent_cache.fill import fill_all
    from ip2p_lightning.data.latent_cache.settings import settings_of

    config = _config(args.words)
    settings = settings_of(config)
    data = build.build_data(config)
    data.setup("fit")
    cache = Cache(replace(settings, mode="disk"), data, _autoencoder(config))
    print(cache.summary())  # with its size, before anything is written
    if cache.reason:
        return
    if unread := _unread(config, _run(args.words)):
        print(f"cache: {unread}")
    with TemporaryDirectory() as folder:  # a list of its own: a run's list holds what that run left out
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
        print(f"left out, cannot be read: {pair['reason']}")
    if state["uncached"]:
        print(f"not stored: {state['uncached']}, whose files changed while they were read; run ip2p-cache again")


def _autoencoder(config: Mapping[str, Any]) -> Any:
    """The run's autoencoder, on its device."""
    import torch

    from ip2p_lightning.config.build import build

    torch.set_float32_matmul_precision(config.get("matmul_precision", "highest"))
    on_gpu = torch.cuda.is_available() and config["trainer"].get("accelerator") != "cpu"
    return build(config["autoencoder"]).to("cuda" if on_gpu else "cpu")


if __name__ == "__main__":
    sys.exit(main())
