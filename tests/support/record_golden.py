"""``make golden``: record the losses that ``test_golden`` compares with, and the entries of ``test_version``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from ip2p_lightning.data.dataloader import Loader
from ip2p_lightning.data.degradations.low_light import LowLight
from ip2p_lightning.data.degradations.noise import GaussianNoise, PoissonGaussianNoise, SensorNoise
from ip2p_lightning.data.degradations.rain import Rain
from ip2p_lightning.data.latent_cache.version import VERSION
from ip2p_lightning.data.sources.photos import Photos
from ip2p_lightning.data.teachers.cartoon import Cartoonizer
from ip2p_lightning.networks.autoencoder import TAESD, KLAutoencoder, PixelUnshuffle

FOLDER = Path(__file__).parents[1] / "golden"
STEPS = 5
WORDS = {"tiny": ["model=tiny", "loader.resize=null"], "sd": ["model=local", "model.path={sd}", "loader.resize=null"]}
WORDS["sd"] += ["trainer.accumulate_grad_batches=2", "model.drop=0.2"]

MAKERS = [Rain, GaussianNoise, PoissonGaussianNoise, SensorNoise, LowLight, Cartoonizer]
CACHE_ENTRIES = ["crop", "center", "kl", "taesd", "GeneratorTeacher", *(kind.__name__ for kind in MAKERS)]


def losses(name: str, work: Path) -> list[float]:
    """The first losses of a recipe, trained through the real command."""
    from tests.support.sd_checkpoint import write_sd_checkpoint
    from tests.support.trained import logged, train_run

    sd = write_sd_checkpoint(work / "sd") if name == "sd" else ""
    words = [word.format(sd=sd) for word in WORDS[name]]
    run = train_run(work / name, *words, f"trainer.max_steps={STEPS}", "log_every=1", "save_every=100", "seed=7")
    return list(logged(run, "train/loss").values())


def cache_entry(name: str, work: Path) -> list[float]:
    """48 of the values that a cache stores of a fixed image, or of a degradation of it."""
    from ip2p_lightning.data.latent_cache.fill import Everything
    from tests.support.pieces import fill, open_cache, write_pairs

    root, kinds = write_pairs(work / "pairs", 1, size=48), {kind.__name__: kind for kind in MAKERS}
    words: dict[str, Any] = {"autoencoder": PixelUnshuffle(), "loader": Loader(size=32, resize=(32, 40), crop="random")}
    if name in kinds or name == "GeneratorTeacher":
        make = kinds[name]() if name in kinds else _teacher(work)
        words |= {"source": Photos(str(root)), "make": make, "draws": 1}
    elif name != "crop":
        words = {"autoencoder": _autoencoder(name, work), "loader": Loader(size=32, resize=(36, 36), crop="center")}
    _, cache = open_cache(root, work / "cache", flip=0.0, **words)
    fill(cache)
    every = Everything(cache)
    stored = torch.frombuffer(bytearray(cache.space.get(every[next(iter(every))].key) or b""), dtype=torch.float32)
    return [round(value, 5) for value in stored[:: len(stored) // 47][:48].tolist()]


def agree(a: list[float], b: list[float]) -> bool:
    """Whether two are one entry: other processors may round two ties to 8 bits the other way."""
    apart = (torch.tensor(a) - torch.tensor(b)).abs()
    return bool(apart.max() < 0.009 and (apart > 1e-3).sum() <= 2)


def _autoencoder(name: str, work: Path) -> Any:
    from diffusers import AutoencoderTiny

    from tests.support.sd_checkpoint import write_sd_checkpoint

    if name == "kl":
        return KLAutoencoder(str(write_sd_checkpoint(work / "sd")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
        AutoencoderTiny(**widths).save_pretrained(work / "taesd")
    return TAESD(str(work / "taesd")) if name == "taesd" else PixelUnshuffle()


def _teacher(work: Path) -> Any:
    from safetensors.torch import save_file

    from ip2p_lightning.data.teachers.generator import GeneratorTeacher
    from ip2p_lightning.data.teachers.whitebox import WhiteboxGenerator

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        save_file(WhiteboxGenerator(channels=8).state_dict(), work / "weights")
    return GeneratorTeacher(str(work / "weights"), device="cpu")


def record_cache_entries() -> None:
    """Record what a cache stores; SystemExit where that has changed without `VERSION`."""
    path, found = FOLDER / "cache_entries.json", {}
    for name in CACHE_ENTRIES:
        with tempfile.TemporaryDirectory() as work:
            found[name] = cache_entry(name, Path(work))
    old = json.loads(path.read_text()) if path.exists() else {"version": 0, "entries": {}}
    if old["version"] == VERSION and not all(agree(found[name], values) for name, values in old["entries"].items()):
        raise SystemExit("the entries of a cache have changed: raise VERSION in data/latent_cache/version.py first")
    path.write_text(json.dumps({"version": VERSION, "entries": found}) + "\n")


def main() -> None:
    """Record every recipe."""
    record_cache_entries()
    FOLDER.mkdir(exist_ok=True)
    for name in WORDS:
        with tempfile.TemporaryDirectory() as work:
            found = {"words": WORDS[name], "losses": losses(name, Path(work))}
        (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(f"{name}: {found['losses']}")


if __name__ == "__main__":
    main()
