"""The generator's parts against plain arithmetic, and the whole against TFLite where the real weights are at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lightning.cli.convert_teacher import main
from ip2p_lightning.data.teachers.generator import GeneratorTeacher
from ip2p_lightning.data.teachers.whitebox import SameConv, double, guided_filter

SHARED = Path(__file__).parents[4] / "shared" / "data"
TFLITE = SHARED / "weights" / "whitebox" / "whitebox_cartoon_gan_dr.tflite"


def test_a_stride_2_convolution_pads_at_the_far_end():
    conv = SameConv(1, 1, 3, stride=2)
    torch.nn.init.constant_(conv.weight, 1)
    torch.nn.init.constant_(conv.bias, 0)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert conv(x).flatten().tolist() == [45, 39, 66, 50]  # sums over rows 0-2 or 2-3 and columns 0-2 or 2-3


def test_doubling_copies_even_pixels_and_averages_odd_ones():
    x = torch.tensor([[[[0.0, 4.0], [8.0, 20.0]]]])
    rows = [[0, 2, 4, 4], [4, 8, 12, 12], [8, 14, 20, 20], [8, 14, 20, 20]]
    assert double(x)[0, 0].tolist() == rows


def test_the_guided_filter_is_its_equations():
    x, y = torch.rand(2, 1, 3, 6, 7, generator=torch.Generator().manual_seed(1)).double()
    made = guided_filter(x, y)[0, 1]
    x, y = x[0, 1].numpy(), y[0, 1].numpy()

    def windows(image):
        padded = np.pad(image, 1, constant_values=np.nan)
        return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*image.shape, 9)

    wx, wy = windows(x), windows(y)
    mx, my = np.nanmean(wx, -1), np.nanmean(wy, -1)
    a = (np.nanmean(wx * wy, -1) - mx * my) / (np.nanmean(wx * wx, -1) - mx * mx + 5e-3)
    wanted = np.nanmean(windows(a), -1) * x + np.nanmean(windows(my - a * mx), -1)
    assert np.abs(made.numpy() - wanted).max() < 1e-12


@pytest.mark.skipif(not TFLITE.is_file(), reason="the published weights are not at hand")
def test_the_port_agrees_with_the_interpreter(tmp_path):
    """With what TFLite's interpreter made of eight photos; it computes in int8, the port in float32."""
    assert main([str(TFLITE), str(tmp_path / "whitebox.safetensors")]) == 0
    teacher = GeneratorTeacher(str(tmp_path / "whitebox.safetensors"), device="cpu")
    for n in range(1, 9):
        wanted = np.array(Image.open(SHARED / "cartoon" / "whitebox_kodak" / f"{n:02d}.png").convert("RGB"))
        difference = np.abs(teacher(kodak(n) / np.float32(255)) * 255 - wanted).mean()
        print(f"photo {n}: mean difference {difference:.2f}/255")
        assert difference <= 2


def kodak(n):
    photo = np.array(Image.open(SHARED / "denoise" / "kodak" / f"{n:02d}.png").convert("RGB"))
    top, left = (photo.shape[0] - 512) // 2, (photo.shape[1] - 512) // 2
    return photo[top : top + 512, left : left + 512]
