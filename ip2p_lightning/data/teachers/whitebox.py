"""White-box Cartoonization's generator (Wang & Yu, CVPR 2020).

A U-Net-like, fully convolutional network, written from the paper's appendix and the graph of its published TFLite file:
stride-2 convolutions down, four residual blocks, bilinear up, skips added rather than concatenated, and a guided filter
after it, which takes the network's colours and keeps the photo's edges. Shapes: B batch, H W pixels, multiples of 4;
images are BGR in [-1, 1].
"""

from __future__ import annotations

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
        left = (self.kernel_size[0] - self.stride[0]) // 2
        right = self.kernel_size[0] - self.stride[0] - left
        return super().forward(F.pad(x, (left, right, left, right)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip, without normalisation; no activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = SameConv(channels, channels, 3), SameConv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:  # [B C H W] -> the same
        return x + self.conv2(_lrelu(self.conv1(x)))


class WhiteboxGenerator(nn.Module):
    """The generator and its guided filter. Layers bear the names of the authors' checkpoint, in lower case."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        c = channels  # of the first layer, 32 in the published weights
        self.conv = SameConv(3, c, 7)
        self.conv_1 = SameConv(c, c, 3, stride=2)
        self.conv_2 = SameConv(c, 2 * c, 3)
        self.conv_3 = SameConv(2 * c, 2 * c, 3, stride=2)
        self.conv_4 = SameConv(2 * c, 4 * c, 3)
        for i in range(BLOCKS):
            setattr(self, f"block_{i}", ResidualBlock(4 * c))
        self.conv_5 = SameConv(4 * c, 2 * c, 3)
        self.conv_6 = SameConv(2 * c, 2 * c, 3)
        self.conv_7 = SameConv(2 * c, c, 3)
        self.conv_8 = SameConv(c, c, 3)
        self.conv_9 = SameConv(c, 3, 7)

    @classmethod
    def from_weights(cls, tensors: dict[str, Tensor]) -> WhiteboxGenerator:
        """The frozen generator with `tensors` (as `convert` writes them). Raises KeyError, RuntimeError: others'."""
        model = cls(tensors["conv.weight"].shape[0])
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
