"""Classifier-free guidance for two conditions, with an independent scale for each.

Shapes: B batch, C latent channels, h w latent size, k branches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ip2p_lightning.diffusion.objective import ConditionLike, Net

BRANCHES = ("full", "image", "null")  # (c_I, c_T), (c_I, 0), (0, 0): the order of diffusers' pipeline


def coefficients(text_scale: float, image_scale: float) -> dict[str, float]:
    """The factor of each branch in the guided output; they sum to 1."""
    return {"full": text_scale, "image": image_scale - text_scale, "null": 1 - image_scale}


def branches(text_scale: float, image_scale: float) -> tuple[str, ...]:
    """The branches that do not cancel, in order: all that has to be computed. ``("full",)`` at scales 1, 1."""
    return tuple(name for name, factor in coefficients(text_scale, image_scale).items() if factor != 0)


def edit_guidance(
    out_full: Tensor | None,  # [B C h w], shown image and text
    out_image: Tensor | None,  # [B C h w], shown the image only
    out_null: Tensor | None,  # [B C h w], shown neither
    text_scale: float,
    image_scale: float,
) -> Tensor:  # [B C h w]
    """e = e(0,0) + s_I [e(I,0) - e(0,0)] + s_T [e(I,T) - e(I,0)]  (Brooks et al. 2023, eq. 3).

    A branch whose factor is zero may be None. Each scale works by itself, without thresholds: diffusers' pipeline
    switches all guidance off unless s_T > 1 and s_I >= 1.
    """
    if out_full is not None and out_image is not None and out_null is not None:
        return out_null + text_scale * (out_full - out_image) + image_scale * (out_image - out_null)
    outs = {"full": out_full, "image": out_image, "null": out_null}
    factors = coefficients(text_scale, image_scale)
    missing = [name for name in BRANCHES if factors[name] != 0 and outs[name] is None]
    if missing:
        raise ValueError(f"guidance at scales {text_scale}, {image_scale} needs the branches {missing}")
    return sum(factors[name] * outs[name] for name in BRANCHES if factors[name] != 0)


class GuidedNet:
    """A net whose output is guided; the branches it needs go through `net` as one batch of k B."""

    def __init__(self, net: Net, null: ConditionLike, text_scale: float, image_scale: float) -> None:
        self.net, self.null, self.scales = net, null, (text_scale, image_scale)
        self.names = branches(text_scale, image_scale)
        self._stacked: tuple[ConditionLike, ConditionLike] | None = None  # a condition, and what is made of it

    def _shown(self, name: str, condition: ConditionLike) -> ConditionLike:
        if name == "full":
            return condition
        return self.null if name == "null" else condition._replace(text=self.null.text)

    def __call__(self, z_t: Tensor, t: Tensor, condition: ConditionLike) -> Tensor:  # [B C h w], [B] -> [B C h w]
        """The guided output at `z_t`; one plain call of `net` where nothing but the full branch is needed."""
        if self.names == ("full",):
            return self.net(z_t, t, condition)
        if self._stacked is None or self._stacked[0] is not condition:  # once for all steps
            shown = [self._shown(name, condition) for name in self.names]
            both = (torch.cat([c.image for c in shown]), torch.cat([c.text for c in shown]))
            self._stacked = condition, condition._replace(image=both[0], text=both[1])
        k, stacked = len(self.names), self._stacked[1]
        outs = dict(zip(self.names, self.net(torch.cat([z_t] * k), t.repeat(k), stacked).chunk(k), strict=True))
        full, image, null = (outs.get(name) for name in BRANCHES)
        return edit_guidance(full, image, null, *self.scales)
