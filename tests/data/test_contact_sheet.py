"""What a contact sheet shows, and what it does not depend on."""

import numpy as np
import pytest
import torch

from ip2p_lightning.data.contact_sheet import contact_sheet, to_pixels

RED = np.zeros((40, 60, 3), np.uint8) + np.array([255, 0, 0], np.uint8)


def test_pixels_are_rounded_and_clipped_and_survive_a_round_trip():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.5 / 127.5 - 1 + 1e-4, 1.0, 3.0])
    pixels = to_pixels(values.expand(3, 2, 6))
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 6, 3)
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 1, 255, 255]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1) * 2 - 1
    assert np.array_equal(to_pixels(x), pixels)


def test_every_image_is_on_the_sheet_with_its_aspect_kept():
    sheet = np.asarray(contact_sheet(["a", "b"], [("one", [RED, RED]), ("two", [RED, RED])], cell=90))
    red = (sheet == [255, 0, 0]).all(2)
    assert red.sum() == 4 * 90 * 60
    assert (sheet[:10] == 255).all() and (sheet[:, :10] == 255).all() and (sheet[-10:] == 255).all()


@pytest.mark.parametrize("text", ["", "short", "a long instruction " * 20, "W" * 400])
def test_text_is_wrapped_into_the_margins(text):
    sheet = np.asarray(contact_sheet(["a"], [(text, [RED])], cell=120, title="t", captions=[["27.3 dB"]]))
    assert (sheet[:, :20] == 255).all() and (sheet[:, -20:] == 255).all()


def test_titles_captions_and_text_take_their_own_room():
    plain = contact_sheet(["a"], [("x", [RED])])
    titled = contact_sheet(["a"], [("x", [RED])], title="t")
    noted = contact_sheet(["a"], [("x", [RED])], captions=[["9.0 dB"]])
    longer = contact_sheet(["a"], [("many words " * 9, [RED])])
    assert all(other.height > plain.height and other.width == plain.width for other in (titled, noted, longer))


def test_a_sheet_without_rows_is_still_a_picture_and_rows_and_columns_must_agree():
    assert contact_sheet(["a", "b"], []).height > 0
    with pytest.raises(ValueError, match="zip"):
        contact_sheet(["a"], [("x", [RED, RED])])
