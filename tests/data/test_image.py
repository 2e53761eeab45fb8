"""Decoding: every kind of file, limits, and one line for whatever goes wrong."""

import os
import struct

import numpy as np
import pytest

from ip2p_lightning.data.image import Limits, decode_image, open_image
from ip2p_lightning.errors import DataError
from tests.support.damage import mutated
from tests.support.zoo import KEPT, RGB, encoded, zoo

ANIMALS = zoo()
LOSSY = (".jpg", "lossy.webp", "ycbcr.tif", ".avif")


@pytest.mark.parametrize("name", ANIMALS)
def test_every_kind_of_file_is_decoded_or_refused(name: str) -> None:
    content, verdict, shows = ANIMALS[name]
    if shows is None:
        with pytest.raises(DataError, match=verdict):
            open_image(content)
        return
    image, portable = decode_image(content)
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"] and portable == (verdict == KEPT)
    assert np.abs(image - shows.astype(float)).mean() <= (2 if name.endswith(LOSSY) else 0.5)


def test_a_path_gives_what_its_bytes_give(tmp_path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(RGB, "PNG"))
    assert np.array_equal(open_image(path), RGB) and np.array_equal(open_image(path.read_bytes()), RGB)


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (9500, 10000), (2, 65500), (4, 40), (40000, 2000)])
def test_size_limits_come_before_decoding(width: int, height: int) -> None:
    data = encoded(RGB, "PNG")  # claims a size that it does not have
    with pytest.raises(DataError, match=r"^bomb\.png: .+$"):
        open_image(data[:16] + struct.pack(">II", width, height) + data[24:], name="bomb.png")


def test_limits_name_what_they_refuse() -> None:
    refused = {"megapixels": {"pixels": 100}, "longer than 30": {"side": 30}, "strip": {"aspect": 1.5}}
    for word, limits in (refused | {"smaller than 32": {"shortest": 32}}).items():
        with pytest.raises(DataError, match=word):
            open_image(encoded(RGB[:20, :40], "PNG"), limits=Limits(**limits))


def test_what_is_no_image_file_is_named_and_a_pipe_does_not_hang(tmp_path) -> None:
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {"page.jpg": "not an image", "empty.png": "not an image", "none.png": "No such file"}
    for name, reason in (reasons | {"folder.png": "is a folder", "pipe.png": "not a regular file"}).items():
        with pytest.raises(DataError, match=f"{name}.*{reason}"):
            open_image(tmp_path / name)


def test_mutated_files_never_raise_anything_else() -> None:
    rng = np.random.default_rng(1)
    good = [encoded(RGB, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")]
    for n in range(300):
        try:
            image = open_image(mutated(good[n % 6], n // 6 % 5, rng))
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
