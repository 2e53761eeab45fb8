"""Contradictions of what a training step computes: low-rank adapters, precision, compilation."""

from __future__ import annotations

from ip2p_lightning.config.rules.base import Config, Rules, _apply, _get, _on_cpu, _target, _value


def step_contradictions(config: Config) -> None:
    """Raise UserError for the first rule that the values of `config` break; types have been checked."""
    _apply(_STEP, config)


def _half(config: Config) -> bool:
    return "16" in str(_get(config, "trainer.precision"))


_STEP: Rules = (
    (
        lambda c: _half(c) and str(_get(c, "trainer.precision")).endswith("-true"),
        lambda c: (
            f"{_value('trainer.precision')(c)}: weights of 16 bits lose updates smaller than 1/256 of them; "
            "use precision=bf16-mixed"
        ),
    ),
    (
        lambda c: bool(_get(c, "unet.lora")) and (_get(c, "unet.lora.rank") < 1 or not _get(c, "unet.lora.targets")),
        lambda c: f"{_value('unet.lora.rank', 'unet.lora.targets')(c)}: give a rank of at least 1 and names of layers",
    ),
    (
        lambda c: (
            bool(_get(c, "unet.lora"))
            and not (0 <= _get(c, "unet.lora.dropout", 0) < 1 and (_get(c, "unet.lora.alpha") or 1) > 0)
        ),
        lambda c: f"{_value('unet.lora.dropout', 'unet.lora.alpha')(c)}: give a dropout in [0, 1) and an alpha above 0",
    ),
    (
        lambda c: _get(c, "unet.lora.dtype", "float32") == "bfloat16" and _get(c, "trainer.precision") != "bf16-mixed",
        lambda c: (
            f"{_value('unet.lora.dtype', 'trainer.precision')(c)}: frozen weights in bfloat16 need "
            "trainer.precision=bf16-mixed"
        ),
    ),
    (
        lambda c: bool(_get(c, "unet.lora")) and _get(c, "trainer.strategy") == "fsdp2",
        lambda c: "unet=sd_lora and trainer.strategy=fsdp2: what is trained fits one device; use trainer.strategy=ddp",
    ),
    (
        lambda c: _target(c, "optimizer") == "AdamW8bit" and _get(c, "trainer.strategy") == "fsdp2",
        lambda c: "optimizer=adamw8bit and trainer.strategy=fsdp2: bitsandbytes takes no sharded weights; use adamw",
    ),
    (
        lambda c: _get(c, "model.compile") == "graphs" and _on_cpu(c),
        lambda c: f"{_value('model.compile', 'trainer.accelerator')(c)}: CUDA graphs need a GPU; use compile=full",
    ),
    (
        lambda c: _get(c, "model.compile") == "graphs" and _get(c, "trainer.accumulate_grad_batches", 1) > 1,
        lambda c: (
            f"{_value('model.compile', 'trainer.accumulate_grad_batches')(c)}: a graph overwrites the gradients of the "
            "micro-batch before; use trainer.accumulate_grad_batches=1 with a larger loader.batch_size"
        ),
    ),
)
