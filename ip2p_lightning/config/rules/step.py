"""Rules on the training step: precision, low-rank adapters, compilation."""

from __future__ import annotations

from ip2p_lightning.config.rules.base import Config, Rules, apply_rules, on_cpu, target, typed
from ip2p_lightning.config.walk import get


def step_contradictions(config: Config) -> None:
    """Raise UserError for the first rule that the values of `config` break; types have been checked."""
    apply_rules(_STEP, config)


def _half(config: Config) -> bool:
    return "16" in str(get(config, "trainer.precision"))


_STEP: Rules = (
    (
        lambda c: _half(c) and str(get(c, "trainer.precision")).endswith("-true"),
        lambda c: (
            f"{typed('trainer.precision')(c)}: weights of 16 bits lose updates smaller than 1/256 of them; "
            "use precision=bf16-mixed"
        ),
    ),
    (
        lambda c: get(c, "unet.lora.dtype", "float32") == "bfloat16" and get(c, "trainer.precision") != "bf16-mixed",
        lambda c: (
            f"{typed('unet.lora.dtype', 'trainer.precision')(c)}: frozen weights in bfloat16 need "
            "trainer.precision=bf16-mixed"
        ),
    ),
    (
        lambda c: bool(get(c, "unet.lora")) and get(c, "trainer.strategy") == "fsdp2",
        lambda c: "unet=sd_lora and trainer.strategy=fsdp2: what is trained fits one device; use trainer.strategy=ddp",
    ),
    (
        lambda c: target(c, "optimizer") == "AdamW8bit" and get(c, "trainer.strategy") == "fsdp2",
        lambda c: "optimizer=adamw8bit and trainer.strategy=fsdp2: bitsandbytes takes no sharded weights; use adamw",
    ),
    (
        lambda c: get(c, "model.compile") == "graphs" and on_cpu(c),
        lambda c: f"{typed('model.compile', 'trainer.accelerator')(c)}: CUDA graphs need a GPU; use compile=full",
    ),
    (
        lambda c: get(c, "model.compile") == "graphs" and get(c, "trainer.accumulate_grad_batches", 1) > 1,
        lambda c: (
            f"{typed('model.compile', 'trainer.accumulate_grad_batches')(c)}: a graph overwrites the gradients of the "
            "micro-batch before; use trainer.accumulate_grad_batches=1 with a larger loader.batch_size"
        ),
    ),
)
