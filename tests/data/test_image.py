"""Decoding: orientation, colour modes, limits, and one line for whatever goes wrong."""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image

from ip2p_lightning.data.image import Limits, open_image
from ip2p_lightning.errors import DataError


def scene(height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth() -> Image.Image:
    return Image.fromarray(scene(4, 5)).resize((40, 32), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # transposes that store it rotated
    stored = Image.fromarray(scene()) if undo is None else Image.fromarray(scene()).transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(open_image(encoded(stored, exif=exif)), scene())


def test_rgb_is_exact_from_path_and_bytes(tmp_path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(scene()).save(path)
    image = open_image(path)
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
    assert np.array_equal(image, scene()) and np.array_equal(open_image(path.read_bytes()), scene())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "TIFF", "PNG"])
def test_formats(kind: str) -> None:
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    assert np.abs(open_image(encoded(smooth(), kind, **options)).astype(int) - np.asarray(smooth())).mean() < 2


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_modes_match_a_reference(mode: str) -> None:
    image, kind = smooth().convert(mode), "TIFF" if mode == "CMYK" else "PNG"
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(open_image(encoded(image, kind)).astype(int) - expected).mean() <= 1


def test_alpha_is_flattened_on_white() -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., 0] = 255  # red, but ...
    pixels[:8, :, 3] = 255  # ... visible in the upper half only
    image = open_image(encoded(Image.fromarray(pixels)))
    assert (image[:8] == [255, 0, 0]).all() and (image[8:] == 255).all()


def test_transparent_palette_colour_is_white() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert (open_image(encoded(image, transparency=1)) == 255).all()
    assert (open_image(encoded(image)) == [255, 0, 0]).all()


def test_sixteen_bit_grey_is_scaled_not_saturated() -> None:
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = open_image(encoded(Image.fromarray(grey)))
    assert np.abs(image[..., 0].astype(int) - np.rint(grey / 257)).max() <= 1
    assert image.max() == 255 and len(np.unique(image)) > 250


def test_float_and_integer_modes_are_refused() -> None:
    for dtype in (np.float32, np.int32):
        with pytest.raises(DataError, match="colour mode"):
            open_image(encoded(Image.fromarray(np.ones((16, 16), dtype)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_several_frames_are_refused(kind: str) -> None:
    frames = [Image.fromarray(scene()), Image.fromarray(255 - scene())]
    with pytest.raises(DataError, match="several frames"):
        open_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_one_frame_gif_is_read() -> None:
    image = Image.new("RGB", (16, 16), (0, 128, 255))
    assert np.abs(open_image(encoded(image, "GIF")).astype(int) - [0, 128, 255]).max() <= 4


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size it does not have."""
    data = encoded(Image.new("RGB", (8, 8)))
    return data[:16] + struct.pack(">II", width, height) + data[24:]


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (9500, 10000), (2, 65500), (4, 40), (40000, 2000)])
def test_size_limits_come_before_decoding(width: int, height: int) -> None:
    with pytest.raises(DataError) as caught:
        open_image(png_header(width, height), name="bomb.png")
    assert str(caught.value).startswith("bomb.png: ") and "\n" not in str(caught.value)


def test_limits_name_what_they_refuse() -> None:
    refused = {"megapixels": {"pixels": 100}, "longer than 30": {"side": 30}, "strip": {"aspect": 1.5}}
    for word, limits in (refused | {"smaller than 32": {"shortest": 32}}).items():
        with pytest.raises(DataError, match=word):
            open_image(encoded(Image.fromarray(scene(20, 40))), limits=Limits(**limits))


def test_no_file_no_image_no_bytes_and_a_pipe_does_not_hang(tmp_path) -> None:
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, reason in [("page.jpg", "not an image"), ("empty.png", "not an image"), ("none.png", "No such file")]:
        with pytest.raises(DataError, match=reason) as caught:
            open_image(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(DataError, match="no bytes"):
        open_image(b"")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        open_image(tmp_path / "pipe.png")


def test_mutated_files_never_raise_anything_else() -> None:
    rng = np.random.default_rng(1)
    good = [encoded(Image.fromarray(scene()), kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")]
    for n in range(300):
        data = bytearray(good[n % len(good)])
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        data = bytes(data[: int(rng.integers(1, len(data) + 1))]) if n % 3 == 0 else bytes(data)
        try:
            image = open_image(data)
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
