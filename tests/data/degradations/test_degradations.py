"""Degradations: statistics against the asked ones, and the contract (pure, in range, 8 bits, refused when wrong)."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image as PILImage

from ip2p_lightning.data.degradations.base import linear_to_srgb, quantise, srgb_to_linear
from ip2p_lightning.data.degradations.low_light import LowLight
from ip2p_lightning.data.degradations.noise import GaussianNoise, PoissonGaussianNoise, SensorNoise
from ip2p_lightning.data.degradations.rain import Rain
from ip2p_lightning.data.teachers.cartoon import Cartoonizer
from ip2p_lightning.errors import UserError

PHOTOS = ["astronaut.png", "coffee.png", "rocket.jpg", "chelsea.png", "motorcycle_left.png", "ihc.png", "retina.jpg"]
DEFAULTS = [GaussianNoise(), PoissonGaussianNoise(), SensorNoise(), Rain(), LowLight(), Cartoonizer()]
IDLE = [GaussianNoise((0, 0)), PoissonGaussianNoise((0, 0), (0, 0)), Rain(density=(0, 0)), Rain(opacity=(0, 0))]
UNIT = {"white_balance": (1, 1), "gamma": (1, 1), "shot": (0, 0), "read": (0, 0)}


def rng(seed=0):
    return np.random.default_rng(seed)


@cache
def photo(name, short=200, size=160):
    with PILImage.open(Path(skimage.__file__).parent / "data" / name) as file:
        image = file.convert("RGB")
    scale = short / min(image.size)
    image = np.asarray(image.resize((round(image.width * scale), round(image.height * scale))), np.float32) / 255
    y, x = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[y : y + size, x : x + size]


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2))


def flat(value, size=256):
    return np.full((size, size, 3), value, np.float32)


def named(degradation):
    return type(degradation).__name__


@pytest.mark.parametrize("degradation", DEFAULTS, ids=named)
class TestContract:
    def test_is_a_pure_function_of_image_and_rng(self, degradation):
        clean, kept = photo("astronaut.png"), photo("astronaut.png").copy()
        np.random.seed(1)
        first = degradation(clean, rng(5))
        np.random.seed(2)
        assert np.array_equal(first, degradation(clean, rng(5)))
        assert np.array_equal(first, degradation(clean, rng(6))) == isinstance(degradation, Cartoonizer)
        assert np.array_equal(clean, kept)

    @pytest.mark.parametrize("shape", [(64, 64), (37, 53), (5, 200)])
    def test_gives_an_eight_bit_image_of_the_same_shape(self, degradation, shape):
        out = degradation(rng().random((*shape, 3), dtype=np.float32), rng())
        assert out.shape == (*shape, 3) and out.dtype == np.float32
        assert out.min() >= 0 and out.max() <= 1 and np.array_equal(out, quantise(out))


@pytest.mark.parametrize("idle", [*IDLE, LowLight(exposure=(0, 0), **UNIT)], ids=named)
def test_zero_strength_is_the_identity(idle):
    clean = quantise(photo("coffee.png"))
    assert np.array_equal(idle(clean, rng()), clean)


@pytest.mark.parametrize(
    ("degradation", "low", "high"), [(SensorNoise(), 20, 21.5), (Rain(), 16, 17.5), (LowLight(), 8, 10)]
)
def test_mean_input_psnr_on_photos(degradation, low, high):
    values = [psnr(degradation(photo(name), rng(i)), photo(name)) for name in PHOTOS for i in range(12)]
    assert low < np.mean(values) < high


def test_srgb():
    # IEC 61966-2-1: mid-grey 0.5 is 0.21404 in linear light; the toe's end 0.04045 is 0.0031308
    assert srgb_to_linear(np.array([0, 0.04045, 0.5, 1])) == pytest.approx([0, 0.0031308, 0.21404, 1], abs=1e-5)
    grid = np.linspace(0, 1, 1001)
    assert linear_to_srgb(srgb_to_linear(grid)) == pytest.approx(grid, abs=1e-7)


class TestNoise:
    @pytest.mark.parametrize("sigma", [5, 15, 25])
    def test_standard_deviation_is_the_asked_one(self, sigma):
        noise = GaussianNoise((sigma, sigma))(flat(0.5), rng()) - np.float32(0.5)
        assert noise.std() * 255 == pytest.approx(sigma, rel=0.03)
        assert abs(noise.mean()) * 255 < 0.02 * sigma + 0.5

    def test_channels_and_neighbours_are_independent(self):
        noise = GaussianNoise((20, 20))(flat(0.5), rng()) - np.float32(0.5)
        assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 2].ravel())[0, 1]) < 0.02
        assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.02

    def test_sigma_is_drawn_over_the_whole_range(self):
        generator = rng()
        stds = [255 * GaussianNoise((10, 40))(flat(0.5, 64), generator).std() for _ in range(200)]
        assert min(stds) < 12 and max(stds) > 38 and np.mean(stds) == pytest.approx(25, abs=2)

    def test_poisson_variance_is_linear_in_linear_light(self):
        gain, read, levels = 0.002, 0.01, np.array([0.1, 0.2, 0.4, 0.6])
        noisy = PoissonGaussianNoise((gain, gain), (read, read))
        variance = [srgb_to_linear(noisy(flat(linear_to_srgb(v)), rng())).var() for v in levels]
        assert variance == pytest.approx(gain * levels + read**2, rel=0.05)
        slope, offset = np.polyfit(levels, variance, 1)
        assert slope == pytest.approx(gain, rel=0.05) and offset == pytest.approx(read**2, abs=0.5e-4)

    @pytest.mark.parametrize(("probability", "kind"), [(0, GaussianNoise((20, 20))), (1, PoissonGaussianNoise())])
    def test_sensor_noise_is_one_of_the_two(self, probability, kind):
        clean, generator = photo("coffee.png"), rng(3)
        generator.random()  # the draw that chooses
        mixed = SensorNoise(sigma=(20, 20), poisson=probability)
        assert np.array_equal(mixed(clean, rng(3)), kind(clean, generator))


class TestRain:
    @staticmethod
    def streaks(direction, size=256, **kwargs):
        asked = {"direction": (direction, direction), "spread": (0, 0)} | kwargs
        return Rain(**asked)(flat(0, size), rng(7))[..., 0]

    def test_only_brightens(self):
        clean = quantise(photo("astronaut.png"))
        rainy = Rain()(clean, rng())
        assert (rainy >= clean).all() and (rainy > clean).mean() > 0.2

    def test_screen_blend(self):
        # the share of white light is the same on any background: (rainy - clean) / (1 - clean)
        black, grey = Rain()(flat(0), rng()), Rain()(flat(0.5), rng())
        assert (grey - 0.5) / 0.5 == pytest.approx(black, abs=1.01 / 255 * 2)

    @pytest.mark.parametrize("direction", [-40, -15, 0, 20, 60])
    def test_dominant_orientation_is_the_asked_direction(self, direction):
        # wide streaks: central differences are biased towards the axes on one-pixel lines
        gy, gx = np.gradient(self.streaks(direction, width=(2, 2), layers=1))
        # the structure tensor's minor axis runs along the streaks
        along = 0.5 * np.arctan2(2 * (gx * gy).sum(), (gx**2 - gy**2).sum()) + np.pi / 2
        measured = 90 - np.degrees(along)  # from the x axis (rows downwards) to the vertical
        assert (measured - direction + 90) % 180 - 90 == pytest.approx(0, abs=3)

    def test_coverage_does_not_depend_on_the_size(self):
        small = np.mean([Rain((3, 3), (30, 30))(flat(0, 48), rng(i)).mean() for i in range(100)])
        large = np.mean([Rain((3, 3), (30, 30))(flat(0, 320), rng(i)).mean() for i in range(6)])
        assert small == pytest.approx(large, rel=0.1)

    def test_border_is_as_wet_as_the_middle(self):
        mean = np.mean([Rain((4, 4))(flat(0, 64), rng(i))[..., 0] for i in range(150)], axis=0)
        border = np.concatenate([mean[:4].ravel(), mean[-4:].ravel(), mean[:, :4].ravel(), mean[:, -4:].ravel()])
        assert border.mean() == pytest.approx(mean[16:-16, 16:-16].mean(), rel=0.1)

    def test_opacity_bounds_a_lone_streak(self):
        lone = self.streaks(0, density=(0.2, 0.2), opacity=(0.6, 0.6), width=(1, 1), layers=1)
        assert 0.3 < lone.max() < 0.63

    def test_length_is_the_asked_one(self):
        def correlation(image, lag):  # along the fall
            image = image - image.mean()
            return (image[lag:] * image[:-lag]).mean() / (image * image).mean()

        long, short = (self.streaks(0, length=(n, n), layers=1, density=(2, 2)) for n in (40, 10))
        assert correlation(long, 14) > 0.5 and correlation(short, 14) < 0.15


class TestLowLight:
    @pytest.mark.parametrize("stops", [1, 2, 3])
    def test_mean_light_falls_by_the_asked_stops(self, stops):
        clean = photo("coffee.png")
        dark = LowLight(exposure=(-stops, -stops), **UNIT)(clean, rng())
        lost = np.log2(srgb_to_linear(clean).mean() / srgb_to_linear(dark).mean())
        assert lost == pytest.approx(stops, abs=0.03)

    def test_white_balance_leaves_green(self):
        settings = UNIT | {"exposure": (-1, -1), "white_balance": (1.5, 1.5)}
        red, green, blue = srgb_to_linear(LowLight(**settings)(flat(0.6), rng())).mean((0, 1))
        assert [red / green, blue / green] == pytest.approx([1.5, 1.5], rel=0.02)

    def test_fewer_photons_more_noise(self):
        def relative_noise(stops):
            settings = UNIT | {"exposure": (-stops, -stops), "shot": (0.001, 0.001)}
            light = srgb_to_linear(LowLight(**settings)(flat(0.7), rng()))
            return light.std() / light.mean()

        # shot noise: the relative error grows with the square root of the lost light
        assert relative_noise(3) / relative_noise(1) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise((50, 15)), r"GaussianNoise\.sigma.*low <= high"),
        (lambda: GaussianNoise(25), r"GaussianNoise\.sigma.*two numbers"),
        (lambda: GaussianNoise((1, 2, 3)), "two numbers"),
        (lambda: GaussianNoise((1, "2")), "two numbers"),
        (lambda: GaussianNoise((0, float("nan"))), "within"),
        (lambda: PoissonGaussianNoise(gain=(-0.1, 0.1)), r"PoissonGaussianNoise\.gain.*\[0, 1\]"),
        (lambda: SensorNoise(poisson=1.5), r"SensorNoise\.poisson.*probability"),
        (lambda: Rain(opacity=(0.5, 1)), r"Rain\.opacity.*0\.99"),
        (lambda: Rain(layers=0), r"Rain\.layers.*1 to 8"),
        (lambda: LowLight(exposure=(2, 4)), r"LowLight\.exposure.*\[-12, 0\]"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
    assert GaussianNoise([5, 10]) == GaussianNoise((5.0, 10.0))  # as YAML gives a range
