"""White-box Cartoonization's generator (Wang & Yu, CVPR 2020).

A U-Net-like, fully convolutional network, written from the paper's appendix and the graph of its published TFLite file:
stride-2 convolutions down, four residual blocks, bilinear up, skips added rather than concatenated, and a guided filter
after it, which takes the network's colours and keeps the photo's edges. Shapes: B batch, H W pixels, multiples of 4;
images are BGR in [-1, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LICENCE = "CC BY-NC-SA 4.0: not for commercial use, share alike"  # of the published weights, not of this file
WHERE = f"get it from github.com/SystemErrorWang/White-box-Cartoonization, test_code/saved_models ({LICENCE})"
SLOPE = 0.2  # of every leaky ReLU
BLOCKS = 4


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's ``SAME``: for stride 2 on an even size, one more pixel at the far end."""

    def forward(self, x: Tensor) -> Tensor:  # [B C H W] -> [B C' H/stride W/stride]
        return super().forward(self.pad(x))

    def pad(self, x: Tensor) -> Tensor:  # [B C H W] -> [B C H+k-s W+k-s]
        """Zeros around `x`."""
        left = (self.kernel_size[0] - self.stride[0]) // 2
        right = self.kernel_size[0] - self.stride[0] - left
        return F.pad(x, (left, right, left, right))


class DynamicRangeConv(SameConv):
    """The same with int8 weights and activations, as LiteRT computes a "dynamic range" TFLite file.

    Each image's activations are rounded to 255 steps between their own least and greatest value, so a result depends,
    within a step, on all of the image. Without this the port is up to 27/255 from the interpreter in single pixels
    (0.8/255 on average): the rounding is part of that teacher. ``weight`` holds whole numbers, whose sums are exact in
    float32 below 2**24 (measured: 3e5), so neither threads nor the batch change a bit of them.

    The reference are LiteRT's own kernels. Its XNNPACK delegate rounds differently: it is up to 25/255 from them.
    """

    scale: Tensor  # [C' 1 1]: what a weight of 1 stands for in each output channel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("scale", torch.ones(self.out_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # [B C H W] -> [B C' H/stride W/stride]
        whole, step = rounded(x)
        total = F.conv2d(self.pad(whole), self.weight, stride=self.stride)
        assert self.bias is not None
        return total.mul_(step * self.scale).add_(self.bias[:, None, None])


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:  # [B C H W] -> whole numbers within +-255 [B C H W], step [B 1 1 1]
    """`x` / step, rounded and clipped as int8 with a zero point per image, the zero point taken off again.

    TFLite's AsymmetricQuantizeFloats (``portable_tensor_utils.cc``), with the roundings that LiteRT 2.3 was found
    to do: photos lie on halves of a step, and one step's difference in one activation may grow through 18 layers.
    """
    low, high = x.amin((1, 2, 3), keepdim=True).clamp(max=0), x.amax((1, 2, 3), keepdim=True).clamp(min=0)
    step = (high - low) / 255
    step = torch.where(step > 0, step, torch.ones_like(step))
    wide = (high.double() - low.double()).clamp(min=torch.finfo(x.dtype).tiny) / 255
    from_low, from_high = -128 - low.double() / wide, 127 - high.double() / wide
    nearer = 128 + (low.double() / wide).abs() < 127 + (high.double() / wide).abs()  # the smaller rounding error
    zero = _half_away(torch.where(nearer, from_low, from_high)).clamp(-128, 127).to(x.dtype)
    return _half_away(x * (1 / step)).add_(zero).clamp_(-128, 127).sub_(zero), step


def _half_away(x: Tensor) -> Tensor:
    """C's ``round``: halves go away from zero (torch.round takes them to even)."""
    return x.abs().add_(0.5).floor_().copysign_(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip, without normalisation; no activation after the sum."""

    def __init__(self, channels: int, conv: type[SameConv] = SameConv) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels, 3), conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:  # [B C H W] -> the same
        return x + self.conv2(_lrelu(self.conv1(x)))


class WhiteboxGenerator(nn.Module):
    """The generator and its guided filter. Layers bear the names of the authors' checkpoint, in lower case.

    channels: width of the first layer; 32 in the published weights.
    conv: class of the convolutions.
    """

    def __init__(self, channels: int = 32, conv: type[SameConv] = SameConv) -> None:
        super().__init__()
        c = channels
        self.conv = conv(3, c, 7)
        self.conv_1 = conv(c, c, 3, stride=2)
        self.conv_2 = conv(c, 2 * c, 3)
        self.conv_3 = conv(2 * c, 2 * c, 3, stride=2)
        self.conv_4 = conv(2 * c, 4 * c, 3)
        for i in range(BLOCKS):
            setattr(self, f"block_{i}", ResidualBlock(4 * c, conv))
        self.conv_5 = conv(4 * c, 2 * c, 3)
        self.conv_6 = conv(2 * c, 2 * c, 3)
        self.conv_7 = conv(2 * c, c, 3)
        self.conv_8 = conv(c, c, 3)
        self.conv_9 = conv(c, 3, 7)

    @classmethod
    def from_weights(cls, tensors: dict[str, Tensor], exact: bool = True) -> WhiteboxGenerator:
        """The generator as wide as `tensors` say, frozen, with them loaded.

        Args:
            tensors: as `convert` writes them; int8 weights come with a ``scale``.
            exact: compute int8 weights as their interpreter does; False: in floating point.

        Raises:
            KeyError, RuntimeError: they are not this generator's.
        """
        whole = "conv.scale" in tensors
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        if whole and not exact:
            scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith(".scale")}
            for name, scale in scales.items():
                tensors[name.replace(".scale", ".weight")] *= scale[..., None]
        model = cls(tensors["conv.weight"].shape[0], DynamicRangeConv if whole and exact else SameConv)
        model.load_state_dict(tensors)
        return model.eval().requires_grad_(False)

    def forward(self, photo: Tensor) -> Tensor:  # [B 3 H W] BGR in [-1, 1] -> the same, not clipped
        full = _lrelu(self.conv(photo))
        half = _lrelu(self.conv_2(_lrelu(self.conv_1(full))))
        x = _lrelu(self.conv_4(_lrelu(self.conv_3(half))))
        for i in range(BLOCKS):
            x = getattr(self, f"block_{i}")(x)
        x = half + double(_lrelu(self.conv_5(x)))
        x = full + double(_lrelu(self.conv_7(_lrelu(self.conv_6(x)))))
        made = self.conv_9(_lrelu(self.conv_8(x)))
        return guided_filter(photo, made)


def double(x: Tensor) -> Tensor:  # [B C H W] -> [B C 2H 2W]
    """Bilinear upsampling by 2 as TensorFlow 1's ``resize_bilinear``: neither corners nor pixel centres aligned.

    Source position is ``i / 2``: even pixels are copied, odd ones the mean of two neighbours, the last one repeated.
    """
    for axis in (2, 3):
        n = x.shape[axis]
        after = torch.cat([x.narrow(axis, 1, n - 1), x.narrow(axis, n - 1, 1)], axis)
        x = torch.stack([x, (x + after) / 2], axis + 1).flatten(axis, axis + 1)
    return x


def guided_filter(x: Tensor, y: Tensor, radius: int = 1, epsilon: float = 5e-3) -> Tensor:  # both [B C H W]
    """`y` smoothed with `x` as the guide, channel by channel (He et al. 2010, eq. 5, 6, 8); means inside the image."""

    def mean(image: Tensor) -> Tensor:
        return F.avg_pool2d(image, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)

    mean_x, mean_y = mean(x), mean(y)
    covariance = mean(x * y) - mean_x * mean_y
    variance = mean(x * x) - mean_x * mean_x
    a = covariance / (variance + epsilon)
    return mean(a) * x + mean(mean_y - a * mean_x)


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)
