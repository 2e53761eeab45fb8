"""Options that contradict one another, refused by both names before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ip2p_lightning.errors import UserError

Config = Mapping[str, Any]


def contradictions(config: Config) -> None:
    """Raise UserError for the first rule that `config` breaks; the line names both keys."""
    for broken, line in _RULES:
        if broken(config):
            raise UserError(line(config))


def _get(config: Config, path: str, default: Any = None) -> Any:
    node: Any = config
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return default
        node = node[key]
    return node


def _target(config: Config, node: str) -> str:
    return str(_get(config, f"{node}._target_", "")).rpartition(".")[2]


def _on_cpu(config: Config) -> bool:
    return _get(config, "trainer.accelerator") == "cpu"


def _value(*keys: str) -> Callable[[Config], str]:
    return lambda config: " and ".join(f"{key}={_get(config, key)}" for key in keys)


_RULES: tuple[tuple[Callable[[Config], bool], Callable[[Config], str]], ...] = (
    (
        lambda c: (_target(c, "objective") == "BridgeObjective") != (_target(c, "sampler") == "BridgeSampler"),
        lambda c: (
            f"objective={_target(c, 'objective')} cannot be sampled by sampler={_target(c, 'sampler')}: a bridge "
            "starts from the original (sampler=bridge), a diffusion from noise (sampler=ddim)"
        ),
    ),
    (
        lambda c: bool(_get(c, "objective.zero_terminal_snr")) and _get(c, "objective.prediction") == "epsilon",
        lambda c: (
            "objective.zero_terminal_snr=true and objective.prediction=epsilon: at zero SNR the noise says "
            "nothing; use objective=v"
        ),
    ),
    (
        lambda c: _on_cpu(c) and str(_get(c, "trainer.precision")).startswith("16"),
        lambda c: f"{_value('trainer.precision', 'trainer.accelerator')(c)}: fp16 needs a GPU; use precision=32-true",
    ),
    (
        lambda c: _target(c, "text_encoder") == "ClipText" and _target(c, "unet") == "PixelEditor",
        lambda c: "text_encoder=clip and unet=pixel: the pixel network reads text of width 64; use text_encoder=tiny",
    ),
    (
        lambda c: (_target(c, "autoencoder") == "PixelUnshuffle") != (_target(c, "unet") == "PixelEditor"),
        lambda c: (
            f"unet={_target(c, 'unet')} and autoencoder={_target(c, 'autoencoder')}: a pixel unet needs "
            "autoencoder=pixel, an SD unet sd, ft-mse or taesd"
        ),
    ),
    (
        lambda c: _target(c, "unet") == "load_unet" and _target(c, "text_encoder") == "TinyText",
        lambda c: (
            "unet=sd and text_encoder=tiny: Stable Diffusion's UNet was trained on CLIP's text; use text_encoder=clip"
        ),
    ),
    (
        lambda c: _get(c, "trainer.max_steps", 0) < 1,
        lambda c: f"{_value('trainer.max_steps')(c)}: give the number of optimizer steps, at least 1",
    ),
    (
        lambda c: _get(c, "trainer.accumulate_grad_batches", 1) < 1,
        lambda c: f"{_value('trainer.accumulate_grad_batches')(c)}: at least 1 micro-batch makes a step",
    ),
    (
        lambda c: (
            _get(c, "schedule.warmup", 0) > _get(c, "trainer.max_steps", 0) > 0 and _get(c, "schedule.warmup", 0) > 50
        ),
        lambda c: f"{_value('schedule.warmup', 'trainer.max_steps')(c)}: the warm-up is longer than the run",
    ),
    (
        lambda c: _get(c, "keep", 2) < 2 or _get(c, "save_every", 1) < 1,
        lambda c: f"{_value('keep', 'save_every')(c)}: keep at least 2 checkpoints, save at least every step",
    ),
    (
        lambda c: (_get(c, "optimizer.lr") or 0) <= 0,
        lambda c: f"{_value('optimizer.lr')(c)}: give a learning rate above 0",
    ),
    (
        lambda c: _get(c, "resume") not in ("auto", "never"),
        lambda c: f"{_value('resume')(c)}: give auto or never",
    ),
    (
        lambda c: min(_get(c, k, 1) for k in ("log_every",)) < 1 or _get(c, "val_every", 0) < 0,
        lambda c: (
            f"{_value('log_every', 'val_every')(c)}: log at least every step; val_every=0 switches validation off"
        ),
    ),
)
