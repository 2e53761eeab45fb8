"""Rules on options that contradict each other, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from ip2p_lightning.config.rules.base import Config, Rules, on_cpu, sharded, target
from ip2p_lightning.config.walk import get
from ip2p_lightning.errors import suggest

# Keys of Lightning's Trainer that the framework sets.
_OWNED = frozenset(
    """logger callbacks plugins default_root_dir enable_checkpointing enable_model_summary num_sanity_val_steps
    use_distributed_sampler check_val_every_n_epoch val_check_interval limit_val_batches limit_train_batches
    log_every_n_steps max_epochs min_epochs min_steps max_time enable_progress_bar fast_dev_run
    reload_dataloaders_every_n_epochs num_nodes barebones gradient_clip_algorithm limit_test_batches
    limit_predict_batches""".split()  # noqa: SIM905  names read better as a text
)


def _one_process(config: Config) -> bool:
    """Whether `trainer.devices` is one; "auto" is on a CPU only."""
    devices = get(config, "trainer.devices", "auto")
    if isinstance(devices, list):
        return len(devices) == 1
    return str(devices) == "1" or (devices == "auto" and on_cpu(config))


def _owned(config: Config) -> list[str]:
    return [key for key in get(config, "trainer", {}) if key in _OWNED]


def _stray_prompts(config: Config) -> list[str]:
    return [key for key, pool in get(config, "prompts", {}).items() if key != "limit" and not isinstance(pool, Mapping)]


VALUES: Rules = (
    (
        _owned,
        lambda c: (
            f"trainer.{_owned(c)[0]}={get(c, 'trainer')[_owned(c)[0]]} is set by the run: give trainer.max_steps, "
            "val_every, save_every, log_every, or choose from the groups callbacks and logger"
        ),
    ),
    (
        _stray_prompts,
        lambda c: (
            f"unknown key prompts.{_stray_prompts(c)[0]}={get(c, 'prompts')[_stray_prompts(c)[0]]}"
            f"{suggest(_stray_prompts(c)[0], set(get(c, 'prompts')) - set(_stray_prompts(c)))}"
        ),
    ),
    (
        lambda c: on_cpu(c) and str(get(c, "trainer.precision")).startswith("16"),
        "{trainer.precision} and {trainer.accelerator}: fp16 needs a GPU; use trainer.precision=32-true",
    ),
    (
        lambda c: get(c, "trainer.strategy", "auto") not in ("auto", "ddp", "fsdp2"),
        "{trainer.strategy}: give ddp, fsdp2, or auto for one process",
    ),
    (
        lambda c: get(c, "trainer.strategy", "auto") == "auto" and not _one_process(c),
        "{trainer.devices} and trainer.strategy=auto: for several processes give trainer=ddp, or trainer.devices=1",
    ),
    (
        lambda c: str(get(c, "trainer.precision")) in ("64", "64-true"),
        "{trainer.precision}: nothing here needs 64 bits; use trainer.precision=32-true",
    ),
    (
        lambda c: sharded(c) and bool(get(c, "model.channels_last")),
        "{trainer.strategy} and {model.channels_last}: sharded weights have the plain layout; "
        "use model.channels_last=false, as trainer=fsdp2 does",
    ),
    (
        lambda c: sharded(c) and get(c, "model.compile", "off") != "off",
        "{trainer.strategy} and {model.compile}: not supported together; use model.compile=off",
    ),
    (
        lambda c: sharded(c) and get(c, "trainer.precision") not in ("32-true", "bf16-mixed"),
        "{trainer.strategy} and {trainer.precision}: use trainer.precision=bf16-mixed or 32-true",
    ),
    (
        lambda c: get(c, "schedule.warmup", 0) > max(100, get(c, "trainer.max_steps", 0)),
        "{schedule.warmup} and {trainer.max_steps}: the warm-up is longer than the run",
    ),
    (
        lambda c: get(c, "trainer.precision") in ("16-true", "bf16-true"),
        "{trainer.precision}: in 16 bits, weights lose updates below 1/256 of them; use trainer.precision=bf16-mixed",
    ),
    (
        lambda c: get(c, "unet.lora.dtype", "float32") == "bfloat16" and get(c, "trainer.precision") != "bf16-mixed",
        "{unet.lora.dtype} and {trainer.precision}: frozen weights in bfloat16 need trainer.precision=bf16-mixed",
    ),
    (
        lambda c: bool(get(c, "unet.lora")) and sharded(c),
        "unet=sd_lora and trainer.strategy=fsdp2: what is trained fits one device; use trainer.strategy=ddp",
    ),
    (
        lambda c: target(c, "optimizer") == "AdamW8bit" and sharded(c),
        "optimizer=adamw8bit and trainer.strategy=fsdp2: bitsandbytes takes no sharded weights; use optimizer=adamw",
    ),
    (
        lambda c: get(c, "model.compile") == "graphs" and on_cpu(c),
        "{model.compile} and {trainer.accelerator}: CUDA graphs need a GPU; use model.compile=full",
    ),
    (
        lambda c: get(c, "model.compile") == "graphs" and get(c, "trainer.accumulate_grad_batches", 1) > 1,
        "{model.compile} and {trainer.accumulate_grad_batches}: a graph overwrites the gradients of the "
        "micro-batch before; use trainer.accumulate_grad_batches=1 with a larger loader.batch_size",
    ),
)
