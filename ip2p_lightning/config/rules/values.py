"""Options that contradict one another, refused by both names before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from ip2p_lightning.config.rules.base import Config, Rules, apply_rules, merge, on_cpu, sharded, typed
from ip2p_lightning.config.walk import get
from ip2p_lightning.errors import suggest


def contradictions(config: Config) -> None:
    """Raise UserError for the first rule that the values of `config` break; types have been checked."""
    apply_rules(_VALUES, config)


# Keys of Lightning's Trainer that a run sets itself.
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


_VALUES: Rules = (
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
        lambda c: f"{typed('trainer.precision', 'trainer.accelerator')(c)}: fp16 needs a GPU; use precision=32-true",
    ),
    (
        lambda c: get(c, "trainer.strategy", "auto") not in ("auto", "ddp", "fsdp2"),
        lambda c: f"{typed('trainer.strategy')(c)}: give ddp, fsdp2, or auto for one process",
    ),
    (
        lambda c: get(c, "trainer.strategy", "auto") == "auto" and not _one_process(c),
        lambda c: (
            f"{typed('trainer.devices')(c)} and trainer.strategy=auto: several processes share a run as trainer=ddp; "
            "give that, or trainer.devices=1"
        ),
    ),
    (
        lambda c: str(get(c, "trainer.precision")) in ("64", "64-true"),
        lambda c: f"{typed('trainer.precision')(c)}: nothing here needs 64 bits; use 32-true",
    ),
    (
        lambda c: sharded(c) and bool(get(c, "model.channels_last")),
        lambda c: (
            f"{typed('trainer.strategy', 'model.channels_last')(c)}: sharded weights have the plain layout; "
            "use model.channels_last=false, as trainer=fsdp2 does"
        ),
    ),
    (
        lambda c: sharded(c) and get(c, "model.compile", "off") != "off",
        lambda c: f"{typed('trainer.strategy', 'model.compile')(c)}: not supported together; use model.compile=off",
    ),
    (
        lambda c: sharded(c) and get(c, "trainer.precision") not in ("32-true", "bf16-mixed"),
        lambda c: f"{typed('trainer.strategy', 'trainer.precision')(c)}: use bf16-mixed or 32-true",
    ),
    (
        lambda c: get(c, "trainer.accumulate_grad_batches", 1) % max(1, merge(c)) != 0,
        lambda c: f"{typed('loader.merge', 'trainer.accumulate_grad_batches')(c)}: merge must divide the accumulation",
    ),
    (
        lambda c: (get(c, "loader.merge", 1) == "auto" or merge(c) > 1) and bool(get(c, "model.balance_tasks")),
        lambda c: (
            f"{typed('loader.merge', 'model.balance_tasks')(c)}: a running error cannot be merged exactly; "
            "use loader.merge=1"
        ),
    ),
    (
        lambda c: (
            get(c, "schedule.warmup", 0) > get(c, "trainer.max_steps", 0) > 0 and get(c, "schedule.warmup", 0) > 100
        ),
        lambda c: f"{typed('schedule.warmup', 'trainer.max_steps')(c)}: the warm-up is longer than the run",
    ),
)
