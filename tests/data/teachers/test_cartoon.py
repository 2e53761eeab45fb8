"""The cartoon teacher: flat regions, kept edges, ink lines, local, deterministic."""

from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image as PILImage

from ip2p_lightning.data.teachers.cartoon import Cartoonizer, guided_filter, ink_lines, kuwahara, soft_quantise
from ip2p_lightning.errors import UserError

PHOTOS = ["astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png", "ihc.png", "retina.jpg"]


def photo(name, size=200):
    with PILImage.open(Path(skimage.__file__).parent / "data" / name) as file:
        image = file.convert("RGB").resize((320, 320))
    return np.asarray(image, np.float32)[:size, 60 : 60 + size] / 255


def edge(low=0.2, high=0.8, noise=0.0):
    """A vertical step in the middle of a 64-pixel square, with texture on both sides."""
    image = np.full((64, 64, 3), low, np.float32)
    image[:, 32:] = high
    return image + noise * np.random.default_rng(0).standard_normal((64, 64, 1)).astype(np.float32)


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2))


def test_mean_distance_to_the_photo():
    assert 21 < np.mean([psnr(Cartoonizer()(photo(name)), photo(name)) for name in PHOTOS]) < 24.5


def test_crop_of_the_cartoon_is_the_cartoon_of_the_crop():
    image = photo("chelsea.png")
    whole, part = Cartoonizer()(image)[40:136, 40:136], Cartoonizer()(image[40:136, 40:136])
    assert whole[20:-20, 20:-20] == pytest.approx(part[20:-20, 20:-20], abs=1.5 / 255)


def test_flattens_texture_but_keeps_the_edge():
    textured = edge(noise=0.02)
    drawn = Cartoonizer(ink=0, crispness=0, saturation=1)(textured)
    assert drawn[8:-8, 8:24].std() < 0.35 * textured[8:-8, 8:24].std()
    assert drawn[:, 33:36].mean() - drawn[:, 28:31].mean() > 0.55


def test_is_not_a_posterisation():
    """A posterisation is a function of the pixel: equal inputs give equal outputs. Here neighbours decide."""
    image = np.round(photo("chelsea.png") * 255) / np.float32(255)
    drawn = Cartoonizer()(image)
    keys = (image @ np.array([1, 256, 65536]) * 255).round().astype(np.int64).ravel()
    order = np.argsort(keys, kind="stable")
    same = np.diff(keys[order]) == 0
    jumps = np.abs(np.diff(drawn.reshape(-1, 3)[order], axis=0)).max(1)[same]
    assert same.sum() > 1000
    assert (jumps > 4 / 255).mean() > 0.3


def test_lines_are_dark_thin_and_at_the_edge():
    lines = ink_lines(edge()[..., 0], 0.9)
    columns = np.flatnonzero(lines[32] > 0.1)
    assert 1 <= len(columns) <= 4
    assert abs(columns.mean() - 31) < 2
    assert lines[32].max() > 0.9
    assert ink_lines(np.full((32, 32), 0.05), 0.9).max() == 0  # a dark region is not a line


def test_ink_only_darkens():
    image = photo("coffee.png")
    assert (Cartoonizer(ink=1)(image) <= Cartoonizer(ink=0)(image)).all()


def test_saturation_moves_away_from_grey():
    def chroma(image):
        return np.abs(image - image.mean(-1, keepdims=True)).mean()

    image = photo("chelsea.png")
    assert chroma(Cartoonizer(saturation=1.5, ink=0)(image)) > 1.2 * chroma(Cartoonizer(saturation=1, ink=0)(image))
    grey = Cartoonizer()(np.repeat(image[..., :1], 3, axis=-1))
    assert np.ptp(grey, axis=-1).max() < 1.5 / 255


def test_soft_quantisation_is_monotone_continuous_and_exact_at_the_tones():
    grid = np.linspace(0, 1, 2001)
    toned = soft_quantise(grid, 5, 2.0)
    assert (np.diff(toned) > -1e-9).all()
    assert np.diff(toned).max() < 3e-3
    tones = (np.arange(5) + 0.5) / 5
    assert soft_quantise(tones, 5, 2.0) == pytest.approx(tones)
    assert np.array_equal(soft_quantise(grid, 5, 0), grid)


@pytest.mark.parametrize("smooth", [lambda x: guided_filter(x, 2, 0.01), lambda x: kuwahara(x, 3)])
def test_smoothing_leaves_constants_and_sharp_steps(smooth):
    assert smooth(np.full((20, 20, 3), 0.3, np.float32)) == pytest.approx(0.3, abs=1e-4)
    assert smooth(edge()) == pytest.approx(edge(), abs=0.06)


WRONG = {"radius": 0, "smoothing": 0.0, "passes": 0, "levels": 1, "crispness": -1.0, "ink": 1.1, "saturation": 9.0}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_refused_in_one_line(name):
    with pytest.raises(UserError, match=rf"Cartoonizer\.{name}: got .*; give one within[^\n]*$"):
        Cartoonizer(**{name: WRONG[name]})
