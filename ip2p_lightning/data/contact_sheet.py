"""Contact sheets: labelled grids of images that a person wants to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN, GAP, ROW_GAP = 28, 10, 26  # around the sheet, between cells, between rows
INK, GREY = (25, 25, 28), (120, 120, 126)
TITLE, HEADER, TEXT, CAPTION = 22, 16, 16, 14  # font sizes in pixels
LONGEST = 240  # characters of an instruction that are shown


def to_pixels(x: Tensor) -> np.ndarray:  # [3 H W] in [-1, 1] -> [H W 3] uint8
    """The image as it is written to an 8-bit file; values beyond the range are clipped."""
    pixels = ((x.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255)
    return np.ascontiguousarray(pixels.byte().permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class _Row:
    lines: list[str]
    cells: list[Image.Image]
    captions: list[str]

    @property
    def height(self) -> int:
        caption = CAPTION + 8 if any(self.captions) else 0
        return len(self.lines) * _line(TEXT) + 6 + max(cell.height for cell in self.cells) + caption


def contact_sheet(
    columns: list[str],
    rows: list[tuple[str, list[np.ndarray]]],
    cell: int = 192,
    title: str | None = None,
    captions: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """A grid with a heading per column and the instruction above each row.

    rows: per row its text and its images, ``[H W 3]`` uint8, scaled with their aspect kept.
    cell: largest side of an image on the sheet, in pixels.
    captions: per row a short text under each image, e.g. ``"27.3 dB"``; "" for none.
    """
    notes = captions or [[""] * len(columns) for _ in rows]
    width = 2 * MARGIN + len(columns) * cell + (len(columns) - 1) * GAP
    laid = [
        _Row(_wrapped(text, width - 2 * MARGIN), [_scaled(image, cell) for image in images], list(under))
        for (text, images), under in zip(rows, notes, strict=True)
    ]
    top = MARGIN + (_line(TITLE) + 10 if title else 0)
    height = top + _line(HEADER) + 10 + sum(row.height + ROW_GAP for row in laid) - ROW_GAP + MARGIN
    sheet = Image.new("RGB", (width, max(height, top + _line(HEADER) + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN), title, INK, _font(TITLE))
    for left, name in zip(_lefts(len(columns), cell), columns, strict=True):
        draw.text((left + cell / 2, top), name, GREY, _font(HEADER), anchor="ma")
    top += _line(HEADER) + 10
    for row in laid:
        _draw_row(sheet, draw, row, top, cell)
        top += row.height + ROW_GAP
    return sheet


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: _Row, top: int, cell: int) -> None:
    for line in row.lines:
        draw.text((MARGIN, top), line, INK, _font(TEXT))
        top += _line(TEXT)
    top += 6
    for left, image, caption in zip(_lefts(len(row.cells), cell), row.cells, row.captions, strict=True):
        sheet.paste(image, (left + (cell - image.width) // 2, top))
        if caption:
            draw.text((left + cell / 2, top + image.height + 5), caption, GREY, _font(CAPTION), anchor="ma")


def _lefts(count: int, cell: int) -> list[int]:
    return [MARGIN + i * (cell + GAP) for i in range(count)]


def _scaled(pixels: np.ndarray, cell: int) -> Image.Image:
    image = Image.fromarray(pixels)
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Much enlarged pixels stay pixels: a small crop looks like what the model saw, not like a blur.
    how = Image.Resampling.LANCZOS if scale < 2 else Image.Resampling.NEAREST
    return image if size == image.size else image.resize(size, how)


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels; a word that is longer is cut."""
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    font, lines = _font(TEXT), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while font.getlength(word) > width:
            word = word[:-2] + "…"
        lines.append(word)
    return [line for line in lines if line]


def _line(size: int) -> int:
    return round(size * 1.35)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
