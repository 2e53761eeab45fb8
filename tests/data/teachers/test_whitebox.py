"""The generator's parts against plain arithmetic, and the whole against LiteRT where the real weights are at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lightning.cli.convert_teacher import main
from ip2p_lightning.data.teachers import GeneratorTeacher
from ip2p_lightning.data.teachers.whitebox import SameConv, double, guided_filter, rounded

SHARED = Path(__file__).parents[4] / "shared" / "data"
TFLITE = SHARED / "weights" / "whitebox" / "whitebox_cartoon_gan_dr.tflite"
real = pytest.mark.skipif(not TFLITE.is_file(), reason="the published weights are not at hand")


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


def test_rounding_covers_the_range_in_255_steps_per_image():
    x = torch.stack([torch.linspace(-0.5, 1.5, 48).view(3, 4, 4), torch.zeros(3, 4, 4)])
    whole, step = rounded(x)
    assert step.flatten().tolist() == pytest.approx([2 / 255, 1])
    assert torch.equal(whole, whole.round()) and (whole * step - x).abs().max() <= step.max() * 0.5 * 1.01
    assert whole[0].max() - whole[0].min() == 255 and not whole[1].any()
    assert (whole[1] == 0).all()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "whitebox.safetensors"
    assert main([str(TFLITE), str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def made(converted):
    """What the port makes of the eight photos, in [0, 1]."""
    teacher = GeneratorTeacher(str(converted), device="cpu")
    return {n: teacher(kodak(n) / np.float32(255)) for n in range(1, 9)}


def kodak(n):
    photo = np.array(Image.open(SHARED / "denoise" / "kodak" / f"{n:02d}.png").convert("RGB"))
    top, left = (photo.shape[0] - 512) // 2, (photo.shape[1] - 512) // 2
    return photo[top : top + 512, left : left + 512]


@real
def test_the_port_agrees_with_the_stored_outputs(made):
    for n in range(1, 9):
        stored = np.array(Image.open(SHARED / "cartoon" / "whitebox_kodak" / f"{n:02d}.png").convert("RGB"))
        difference = np.abs(made[n] * 255 - stored)
        assert difference.max() <= 2 and difference.mean() < 0.01


@real
def test_the_port_agrees_with_the_interpreter(made):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    kernels = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # its XNNPACK rounds differently from its kernels
    interpreter = litert.Interpreter(str(TFLITE), num_threads=1, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    for n in (2, 5):
        x = kodak(n)[None, ..., ::-1].astype(np.float32) / np.float32(127.5) - 1
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        z = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0, ..., ::-1]
        wanted = np.clip((z + 1) / 2, 0, 1)
        assert np.abs(made[n] - wanted).max() <= 2 / 255


@real
def test_in_floating_point_the_port_is_near_on_average(converted):
    stored = np.array(Image.open(SHARED / "cartoon" / "whitebox_kodak" / "05.png").convert("RGB"))
    made = GeneratorTeacher(str(converted), device="cpu", exact=False)(kodak(5) / np.float32(255)) * 255
    assert np.abs(made - stored).mean() <= 2
