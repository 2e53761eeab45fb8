"""Low-rank adapters beside a frozen UNet (LoRA, Hu et al. 2022, section 4.1): W x + (alpha / rank) B A x, by peft."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ip2p_lightning.errors import UserError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # of diffusers' attention blocks, as in its own LoRA scripts


class Lora:
    """What is trained in place of a whole UNet.

    Args:
        rank: of A and B.
        alpha: numerator of the adapters' scale, alpha / rank; None = rank, as in diffusers' scripts.
        targets: ends of the names of the Linear and Conv2d layers that get an adapter.
        dropout: of the adapters' inputs, in training.
        dtype: of the frozen weights; bfloat16 needs bf16 autocast in training.

    Raises UserError without targets.
    """

    def __init__(
        self,
        rank: int = 16,
        alpha: float | None = None,
        targets: Sequence[str] = ATTENTION,
        dropout: float = 0.0,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        if not targets:
            raise UserError("unet.lora.targets=[]: give ends of names of layers, such as [to_q, to_v]")
        self.rank, self.alpha, self.targets = rank, rank if alpha is None else alpha, list(targets)
        self.dropout, self.dtype = dropout, dtype

    def apply(self, unet: nn.Module, widened: bool) -> None:
        """Freeze `unet` and give it adapters, in place; their output is exactly 0 at first.

        `widened`: its ``conv_in`` has just got inputs for the photo, with zero weights: the layer is trained whole.
        Raises UserError without peft, or where no layer has a name of the targets.
        """
        if importlib.util.find_spec("peft") is None:
            raise UserError("unet=sd_lora needs peft; pip install 'ip2p-lightning[lora]'")
        from peft import LoraConfig

        settings = {"r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout}
        adapters = LoraConfig(**settings, target_modules=self.targets, init_lora_weights="gaussian")
        unet.requires_grad_(False)
        try:
            unet.add_adapter(adapters)
        except ValueError as error:
            raise UserError(f"unet.lora.targets={self.targets}: {str(error).splitlines()[0]}") from None
        if widened:
            unet.conv_in.requires_grad_(True)
        for weight in unet.parameters():
            if not weight.requires_grad:
                weight.data = weight.data.to(getattr(torch, self.dtype))
        unet.lora = self

    def adapters(self, unet: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and settings, for a pipeline's ``save_lora_weights``. Raises UserError if more was trained."""
        from peft import get_peft_model_state_dict

        if unet.conv_in.weight.requires_grad:
            raise UserError(
                "the adapters alone are not this run: its base has no input for the photo, so the widened conv_in was "
                "trained too, which a LoRA file cannot hold; export the whole model, without --adapter"
            )
        return get_peft_model_state_dict(unet), unet.peft_config["default"].to_dict()

    def merge(self, unet: nn.Module) -> None:
        """Add the adapters to the weights they stand beside, in place: what is left is a plain float32 UNet."""
        unet.float()
        unet.fuse_lora()
        unet.unload_lora()
        unet.lora = None
