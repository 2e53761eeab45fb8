"""Geometry: one for the pair, new for each sample, and what the size options say."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.data.transforms import View
from ip2p_lightning.errors import DataError, UserError
from ip2p_lightning.rng import numpy_rng


def scene(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


VIEWS = [View(32, flip=0.5), View(32, resize=(32, 80), flip=0.5), View(100, flip=0.5), View(40, crop="center")]
VIEWS += [View(None), View(None, resize=(50, 50))]


@pytest.mark.parametrize("view", VIEWS)
def test_a_pair_stays_aligned_and_of_its_size(view: View) -> None:
    image, whole = scene(), (56, 88, 3) if view.resize is None else (48, 72, 3)
    for n in range(20):
        a, b, c = view([image, image.copy(), 255 - image], numpy_rng(n))
        assert np.array_equal(a, b)
        assert a.dtype == np.float32 and a.flags["C_CONTIGUOUS"] and 0 <= a.min() <= a.max() <= 1
        assert np.abs(a + c - 1).max() <= 2.01 / 255  # the negative sees the same pixels
        assert a.shape == (whole if view.size is None else (view.size, view.size, 3))


def test_without_resize_pixels_are_untouched() -> None:
    image = scene()
    crop = View(32)([image], numpy_rng(5))[0]
    windows = np.lib.stride_tricks.sliding_window_view(image, (32, 32), axis=(0, 1))
    assert (np.moveaxis(windows, 2, -1) == np.rint(crop * 255)).all(axis=(2, 3, 4)).sum() == 1


def test_geometry_differs_between_samples() -> None:
    crops = {View(32)([scene()], numpy_rng(n))[0].tobytes() for n in range(20)}
    assert len(crops) == 20


def test_flips_happen_at_their_rate_and_move_nothing_else() -> None:
    image, view, flipped = scene(), View(32, flip=0.5), 0
    for n in range(200):
        a, b = view([image], numpy_rng(n))[0], replace(view, flip=0.0)([image], numpy_rng(n))[0]
        assert np.array_equal(a, b) or np.array_equal(a, b[:, ::-1])
        flipped += not np.array_equal(a, b)
    assert 75 <= flipped <= 125


def test_the_number_of_draws_is_fixed() -> None:
    after = set()
    for view in VIEWS:
        rng = numpy_rng(7)
        view([scene()], rng)
        after.add(rng.random())
    assert len(after) == 1


def test_centre_crop_is_central() -> None:
    crop = View(20, crop="center")([scene()], numpy_rng(0))[0]
    assert np.array_equal(np.rint(crop * 255), scene()[20:40, 35:55])


def test_cropping_first_equals_resizing_first() -> None:
    image = scene(200, 300)
    for n in range(10):
        view = View(64, resize=(70, 180))
        crop = view([image], numpy_rng(n))[0]
        scale, left, top, _ = numpy_rng(n).random(4)
        side = 70 + int(scale * 111)
        whole = Image.fromarray(image).resize((round(300 * side / 200), side), Image.Resampling.LANCZOS)
        x, y = int(left * (whole.width - 64 + 1)), int(top * (whole.height - 64 + 1))
        expected = np.asarray(whole)[y : y + 64, x : x + 64] / 255
        assert np.abs(crop - expected).max() <= 2.01 / 255


def test_resize_keeps_the_aspect_ratio() -> None:
    disc = np.zeros((100, 200, 3), np.uint8)
    y, x = np.mgrid[:100, :200]
    disc[(y - 50) ** 2 + (x - 100) ** 2 < 40**2] = 255
    seen = View(48, resize=(48, 48), crop="center")([disc], numpy_rng(0))[0][..., 0] > 0.5
    assert abs(int(seen.any(axis=0).sum()) - int(seen.any(axis=1).sum())) <= 1


def test_float_images_are_accepted() -> None:
    image = scene().astype(np.float32) / 255
    for view in VIEWS:
        a, b = view([image], numpy_rng(2))[0], view([scene()], numpy_rng(2))[0]
        assert np.abs(a - b).mean() <= 1 / 255  # Pillow clips between its two passes on uint8


def test_different_sizes_and_bad_options_are_refused() -> None:
    with pytest.raises(DataError, match="90 x 60 and 90 x 61"):
        View(32)([scene(), scene(61)], numpy_rng(0))
    bad = [{"size": 64, "resize": resize} for resize in ((32, 80), (80, 70), [80])]
    for options in [{"size": 0}, {"crop": "left"}, {"flip": 1.5}, *bad]:
        with pytest.raises(UserError):
            View(**options)
