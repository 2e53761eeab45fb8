"""Options that contradict one another, refused by both names before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from ip2p_lightning.config.rules.base import Config, Rules, _apply, _get, _on_cpu, _sharded, _value
from ip2p_lightning.errors import suggest


def contradictions(config: Config) -> None:
    """Raise UserError for the first rule that the values of `config` break; types have been checked."""
    _apply(_VALUES, config)


# Keys of Lightning's Trainer that a run sets itself, and what to use in their place.
_OWNED = {
    "logger": "a run logs to TensorBoard and metrics.jsonl",
    "callbacks": "a run brings its own",
    "plugins": "a run brings its own",
    "default_root_dir": "use hydra.run.dir",
    "enable_checkpointing": "use save_every and keep",
    "enable_model_summary": "it is always off",
    "num_sanity_val_steps": "use trainer=fast",
    "use_distributed_sampler": "the data knows its rank",
    "check_val_every_n_epoch": "use val_every",
    "val_check_interval": "use val_every",
    "limit_val_batches": "use val_examples",
    "limit_train_batches": "use max_steps",
    "log_every_n_steps": "use the top-level log_every",
    "max_epochs": "use max_steps",
    "min_epochs": "use max_steps",
    "min_steps": "use max_steps",
    "max_time": "use the scheduler's time limit: a run that is stopped continues",
    "enable_progress_bar": "it is always on",
    "fast_dev_run": "use trainer=fast",
    "reload_dataloaders_every_n_epochs": "a run has one loader",
    "num_nodes": "srun says how many machines there are",
    "barebones": "a run logs and saves",
    "gradient_clip_algorithm": "a run clips the norm of the whole gradient, to gradient_clip_val",
    "limit_test_batches": "a run tests nothing; use ip2p-evaluate",
    "limit_predict_batches": "a run predicts nothing; use ip2p-edit",
}


def _one_process(config: Config) -> bool:
    """Whether `trainer.devices` is one; "auto" is on a CPU only."""
    devices = _get(config, "trainer.devices", "auto")
    if isinstance(devices, list):
        return len(devices) == 1
    return str(devices) == "1" or (devices == "auto" and _on_cpu(config))


def _owned(config: Config) -> list[str]:
    return [key for key in _get(config, "trainer", {}) if key in _OWNED]


def _stray_prompts(config: Config) -> list[str]:
    return [
        key for key, pool in _get(config, "prompts", {}).items() if key != "limit" and not isinstance(pool, Mapping)
    ]


_VALUES: Rules = (
    (
        _owned,
        lambda c: (
            f"trainer.{_owned(c)[0]}={_get(c, 'trainer')[_owned(c)[0]]} is set by the run: {_OWNED[_owned(c)[0]]}"
        ),
    ),
    (
        _stray_prompts,
        lambda c: (
            f"unknown key prompts.{_stray_prompts(c)[0]}={_get(c, 'prompts')[_stray_prompts(c)[0]]}"
            f"{suggest(_stray_prompts(c)[0], set(_get(c, 'prompts')) - set(_stray_prompts(c)))}"
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
        lambda c: (
            str(_get(c, "trainer.precision")).endswith("16-true")
            and (_get(c, "model.ema") is not None or bool(_get(c, "model.balance_tasks")))
        ),
        lambda c: (
            f"{_value('trainer.precision', 'model.ema', 'model.balance_tasks')(c)}: averages of numbers that are kept "
            "in 16 bits stand still; use precision=bf16-mixed"
        ),
    ),
    (
        lambda c: _get(c, "trainer.strategy", "auto") not in ("auto", "ddp", "fsdp2"),
        lambda c: f"{_value('trainer.strategy')(c)}: give ddp, fsdp2, or auto for one process",
    ),
    (
        lambda c: _get(c, "trainer.strategy", "auto") == "auto" and not _one_process(c),
        lambda c: (
            f"{_value('trainer.devices')(c)} and trainer.strategy=auto: several processes share a run as trainer=ddp; "
            "give that, or trainer.devices=1"
        ),
    ),
    (
        lambda c: str(_get(c, "trainer.precision")) in ("64", "64-true"),
        lambda c: f"{_value('trainer.precision')(c)}: nothing here needs 64 bits; use 32-true",
    ),
    (
        lambda c: not all(0 <= beta < 1 for beta in _get(c, "optimizer.betas") or ()),
        lambda c: f"{_value('optimizer.betas')(c)}: give decays of at least 0 and below 1",
    ),
    (
        lambda c: _on_cpu(c) and _get(c, "trainer.devices") == "auto" and _get(c, "trainer.strategy", "auto") != "auto",
        lambda c: (
            f"{_value('trainer.devices', 'trainer.strategy')(c)}: on a CPU say how many processes, trainer.devices=2"
        ),
    ),
    (
        lambda c: _sharded(c) and bool(_get(c, "model.channels_last")),
        lambda c: (
            f"{_value('trainer.strategy', 'model.channels_last')(c)}: sharded weights have the plain layout; "
            "use model.channels_last=false, as trainer=fsdp2 does"
        ),
    ),
    (
        lambda c: _sharded(c) and _get(c, "model.compile", "off") != "off",
        lambda c: f"{_value('trainer.strategy', 'model.compile')(c)}: not supported together; use model.compile=off",
    ),
    (
        lambda c: _sharded(c) and _get(c, "trainer.precision") not in ("32-true", "bf16-mixed"),
        lambda c: f"{_value('trainer.strategy', 'trainer.precision')(c)}: use bf16-mixed or 32-true",
    ),
    (
        lambda c: (
            _get(c, "cache", "off") not in ("off", "ram", "disk", "auto")
            or _get(c, "cache_variants", 1) < 1
            or _get(c, "cache_draws", 0) < 0
            or _get(c, "cache_dtype", "float32") not in ("float32", "bfloat16")
        ),
        lambda c: (
            f"{_value('cache', 'cache_variants', 'cache_draws', 'cache_dtype')(c)}: give off, ram, disk or auto; "
            "at least 1; at least 0; float32 or bfloat16"
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
            _get(c, "schedule.warmup", 0) > _get(c, "trainer.max_steps", 0) > 0 and _get(c, "schedule.warmup", 0) > 100
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
