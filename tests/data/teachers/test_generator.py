"""The teacher: any size, any batch, any process, and one line for what is missing."""

import pickle

import numpy as np
import pytest
import torch

from ip2p_lightning.config.build import build
from ip2p_lightning.data.sources.base import makes
from ip2p_lightning.data.teachers.generator import GeneratorTeacher
from ip2p_lightning.data.teachers.resize import enlarge, pad, reduce
from ip2p_lightning.errors import DamagedError, UserError
from tests.support.configs import config_of


def photo(*size, seed=0):
    return np.random.default_rng(seed).random((*size, 3), dtype=np.float32)


@pytest.fixture
def teacher(weights_file):
    return GeneratorTeacher(str(weights_file), device="cpu")


@pytest.mark.parametrize("size", [(8, 8), (64, 48), (37, 61), (3, 5)])
def test_the_cartoon_has_the_photos_size_and_8_bit_values(teacher, size):
    made = teacher(photo(*size), np.random.default_rng(0))
    assert makes(teacher) == "edited" and made.shape == (*size, 3) and made.dtype == np.float32
    assert np.allclose(made * 255, np.rint(made * 255), atol=1e-4) and 0 <= made.min() <= made.max() <= 1


def test_it_is_the_network_on_bgr_and_truncates(teacher, generator):
    x = np.rint(photo(16, 24) * 255)
    bgr = torch.from_numpy((x[..., ::-1] / 127.5 - 1).astype(np.float32).transpose(2, 0, 1).copy())[None]
    wanted = np.floor(((generator(bgr)[0].numpy() + 1) * 127.5).clip(0, 255)).transpose(1, 2, 0)[..., ::-1]
    assert np.abs(teacher((x / 255).astype(np.float32)) * 255 - wanted).max() <= 1  # 1: a value on a level's edge


def test_a_batch_is_its_images_one_by_one_in_order(teacher):
    photos = [photo(*size, seed=i) for i, size in enumerate([(16, 16), (24, 16), (16, 16), (10, 9), (24, 16)])]
    together = teacher.batch(photos)
    assert all(np.array_equal(a, teacher(b)) for a, b in zip(together, photos, strict=True))
    assert teacher.batch([]) == []


def test_another_process_makes_the_same(teacher):
    wanted = teacher(photo(16, 16))
    sent = pickle.dumps(teacher)
    assert len(sent) < 1000  # without the network
    assert np.array_equal(pickle.loads(sent)(photo(16, 16)), wanted) and pickle.loads(sent) == teacher


def test_a_large_photo_is_made_at_the_short_side_and_keeps_its_size(weights_file):
    teacher = GeneratorTeacher(str(weights_file), device="cpu", short_side=24)
    large = photo(50, 75)
    prepared = teacher.prepare(large)
    assert prepared.shape == (24, 32, 3)  # 24 x 36, cropped to multiples of 8
    assert teacher(large).shape == large.shape and teacher(prepared).shape == prepared.shape
    assert np.array_equal(teacher.prepare(photo(16, 24)), photo(16, 24))


def test_reduction_averages_areas():
    wide = np.repeat(np.arange(6, dtype=np.float32)[None, :, None] / 255, 4, 0).repeat(3, 2)
    assert np.rint(reduce(wide, 2)[0, :, 0] * 255).tolist() == [0, 2, 4]  # means .5, 2.5, 4.5, halves to even
    smooth = reduce(np.full((31, 47, 3), 0.4, np.float32), 10)
    assert smooth.shape == (10, 15, 3) and np.allclose(smooth, 0.4)
    assert pad(wide, 8).shape == (8, 8, 3) and enlarge(wide, (4, 6)) is wide


def test_missing_weights_say_where_to_get_them_and_the_licence(tmp_path):
    with pytest.raises(UserError, match=r"White-box-Cartoonization.*CC BY-NC-SA 4\.0.*convert_teacher") as caught:
        GeneratorTeacher(str(tmp_path / "no.safetensors"))
    assert "\n" not in str(caught.value)


def test_weights_of_something_else_are_refused(tmp_path, weights_file):
    other = tmp_path / "x.safetensors"
    other.write_bytes(weights_file.read_bytes()[:5000])
    with pytest.raises(DamagedError, match="not weights of whitebox"):
        GeneratorTeacher(str(other), device="cpu")(photo(8, 8))


@pytest.mark.parametrize(
    "setting", [{"architecture": "whitebx"}, {"device": "tpu"}, {"short_side": 0}, {"batch_size": 0}]
)
def test_impossible_settings_are_refused(weights_file, setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        GeneratorTeacher(str(weights_file), **setting)


def test_a_config_can_name_it(weights_file):
    config = config_of("model=tiny", "task=cartoon_whitebox", f"task.make.weights={weights_file}")
    assert isinstance(build(config["task"]["make"]), GeneratorTeacher)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_agrees(weights_file):
    photos = [photo(40, 40, seed=i) for i in range(5)]
    cpu, gpu = (GeneratorTeacher(str(weights_file), device=d).batch(photos) for d in ("cpu", "cuda"))
    assert max(np.abs(a - b).max() for a, b in zip(cpu, gpu, strict=True)) <= 1.01 / 255
