"""Films as pictures: heat and boxes laid on them, captions, contact sheets, before and after.

Films are gray u8[h, w]. A heat map and its boxes belong to the square that the network sees; `fit`
(how the film became that square, see `preprocess.resize`) says where that square lies on the film.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, PANEL, INK, FAINT = "#101418", "#1b2127", "#e9edf0", "#93a0ab"
PREDICTED, MARKED, OUTLINE = "#ffd34d", "#4fd1ff", "#7be495"  # boxes of the map, boxes of a reader
MARKED_DASH = 6  # pixels of line at 320 pixels of film, then as many without
COLORS = ("inferno", "viridis", "turbo")  # scales of heat, as matplotlib calls them


class Part(NamedTuple):
    """A rectangle of a film of `height` x `width` pixels; right and bottom are not in it."""

    height: int
    width: int
    left: int
    top: int
    right: int
    bottom: int


@functools.lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans (it comes with matplotlib) of so many pixels."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / name), size)


@functools.lru_cache(maxsize=8)
def _colors(name: str = COLORS[0]) -> UInt8[np.ndarray, "256 3"]:
    import matplotlib

    table = matplotlib.colormaps[name](np.linspace(0.0, 1.0, 256))
    return np.rint(255 * table[:, :3]).astype(np.uint8)


def color_bar(width: int, height: int, name: str = COLORS[0]) -> UInt8[np.ndarray, "{height} _ 3"]:
    """The scale of heat from 0 (left) to a map's maximum, `width` pixels wide."""
    at = np.rint(np.linspace(0, 255, width)).astype(int)
    return np.repeat(_colors(name)[at][None], height, 0)


def square(height: int, width: int, fit: str) -> tuple[float, float, float, float]:
    """Where the network's square lies on a film of height x width: (x0, y0, x1, y1) in pixels.

    'stretch' sees the whole film, 'crop' its central square, 'pad' a square that reaches beyond it.
    """
    if fit == "stretch":
        return 0.0, 0.0, float(width), float(height)
    side = min(height, width) if fit == "crop" else max(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def boxes_on_film(
    boxes: Float[np.ndarray, "n 4"], height: int, width: int, fit: str = "stretch"
) -> Float[np.ndarray, "n 4"]:
    """Boxes in fractions of the network's square as pixels of the film, cut off at its border."""
    x0, y0, x1, y1 = square(height, width, fit)
    moved = boxes * [x1 - x0, y1 - y0, x1 - x0, y1 - y0] + [x0, y0, x0, y0]
    return np.clip(moved, 0.0, [width, height, width, height])


def heat_on_film(
    heat: Float[np.ndarray, "h w"], height: int, width: int, fit: str = "stretch",
    part: Part | None = None,
) -> Float[np.ndarray, "_ _"]:
    """A map as parts of its own maximum, 0..1, bilinear on the film's pixels (or a part's).

    What speaks against the finding (below zero) and what the network did not see are 0.
    """
    top = float(heat.max(initial=0.0))
    return _on_film(np.maximum(heat, 0.0) / (top if top > 0 else 1.0), height, width, fit, part)


def mask_on_film(
    probability: Float[np.ndarray, "s s"], height: int, width: int, fit: str = "stretch",
    part: Part | None = None,
) -> UInt8[np.ndarray, "_ _"]:
    """What of the film (or a part) lies inside a structure: 1 where its probability is above one
    half."""
    return (_on_film(probability, height, width, fit, part) > 0.5).astype(np.uint8)


def _on_film(
    values: np.ndarray, height: int, width: int, fit: str, part: Part | None
) -> np.ndarray:
    x0, y0, x1, y1 = (round(v) for v in square(height, width, fit))
    image = Image.fromarray(values.astype(np.float32))
    if part is not None:
        # Only what is seen is enlarged: at sixteen times a whole film would be gigabytes.
        canvas = Image.new("F", (part.right - part.left, part.bottom - part.top))
        left, top = max(x0, part.left), max(y0, part.top)
        right, bottom = min(x1, part.right), min(y1, part.bottom)
        if left < right and top < bottom:
            wide, high = x1 - x0, y1 - y0
            box = ((left - x0) * image.width / wide, (top - y0) * image.height / high,
                   (right - x0) * image.width / wide, (bottom - y0) * image.height / high)
            seen = image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box)
            canvas.paste(seen, (left - part.left, top - part.top))
        return np.asarray(canvas)
    whole = image.resize(
        (max(1, x1 - x0), max(1, y1 - y0)), Image.Resampling.BILINEAR
    )
    # Pasting cuts off what reaches beyond the film.
    canvas = Image.new("F", (width, height))
    canvas.paste(whole, (x0, y0))
    return np.asarray(canvas)


def blend(
    film: UInt8[np.ndarray, "h w"],
    heat: Float[np.ndarray, "h w"],
    opacity: int | float = 0.5,
    threshold: int | float = 0.5,
    colors: str = COLORS[0],
) -> UInt8[np.ndarray, "h w 3"]:
    """The film with the heat (0..1) laid over it, in one of the scales COLORS.

    From `threshold` on the colour has its full `opacity`; below it fades with the square of the
    heat, so that cold parts of the film stay as they are.
    """
    heat = heat.astype(np.float32)
    alpha = np.float32(opacity) * np.minimum(np.float32(1), heat / np.float32(threshold)) ** 2
    color = _colors(colors)[(255 * heat + 0.5).astype(np.uint8)]
    gray = film.astype(np.float32)[..., None]
    return (gray + alpha[..., None] * (color - gray) + np.float32(0.5)).astype(np.uint8)


def fit_into(film: UInt8[np.ndarray, "h w"], longest: int) -> UInt8[np.ndarray, "_ _"]:
    """The film with its longer side `longest` pixels, its shape kept."""
    height, width = film.shape
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(film).resize(size, Image.Resampling.LANCZOS))


def cut_out(film: UInt8[np.ndarray, "h w"], part: Part) -> UInt8[np.ndarray, "_ _"]:
    """A part of the film, of which `part.height` x `part.width` are all pixels together."""
    high, wide = film.shape
    # Multiplied first, so that the whole film is exactly itself.
    box = (part.left * wide / part.width, part.top * high / part.height,
           part.right * wide / part.width, part.bottom * high / part.height)
    size = (part.right - part.left, part.bottom - part.top)
    return np.array(Image.fromarray(film).resize(size, Image.Resampling.LANCZOS, box))


def draw_boxes(
    image: Image.Image, boxes: Float[np.ndarray, "n 4"], color: str, dashed: bool = False,
    part: Part | None = None,
) -> None:
    """Draws boxes (pixels) into the picture, on a dark rim that shows them on white bone too.

    Args:
      part: of the film that the picture shows; `boxes` are on the whole one.
    """
    draw = ImageDraw.Draw(image)
    width = max(2, round(max(image.size) / 220))
    inset = width / 2
    start, end = np.zeros(2), np.array(image.size)
    if part is not None:
        start = -np.array([part.left, part.top])
        end = start + [part.width, part.height]
    for box in boxes:
        # A box at the film's border keeps its whole line.
        x0, y0 = np.maximum(box[:2] + start, start + inset)
        x1, y1 = np.minimum(box[2:] + start, end - 1 - inset)
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        sides = zip(corners, corners[1:])
        pieces = [p for a, b in sides for p in _pieces(a, b, image.size, dashed)]
        for line, ink in ((width + 2, "#000000"), (width, color)):
            for piece in pieces:
                draw.line(piece, fill=ink, width=line)


def _pieces(start, end, size, dashed):
    (x0, y0), (x1, y1) = start, end
    length = max(abs(x1 - x0), abs(y1 - y0))
    dash = max(3.0, MARKED_DASH * max(size) / 320)
    if not dashed or length <= dash:
        return [[start, end]]
    steps = np.arange(0.0, length, 2 * dash)
    at = [(a / length, min(a + dash, length) / length) for a in steps]
    return [
        [(x0 + a * (x1 - x0), y0 + a * (y1 - y0)), (x0 + b * (x1 - x0), y0 + b * (y1 - y0))]
        for a, b in at
    ]


def draw_outline(
    image: Image.Image, inside: Integer[np.ndarray, "h w"], color: str, margin: int = 0
) -> None:
    """Draws the rim of a mask (0/1) into an RGB picture.

    The mask reaches beyond the picture by `margin` pixels on every side, so that where a structure
    goes on outside of it there is no rim.
    """
    mask = inside > 0
    core = mask.copy()
    thick = max(2, round(max(image.size) / 400))
    for axis in (0, 1):
        for step in (-thick, thick):
            core &= np.roll(mask, step, axis)
    high, wide = mask.shape
    rim = (mask & ~core)[margin : high - margin, margin : wide - margin]
    rim = Image.fromarray(rim * np.uint8(255))
    image.paste(Image.new("RGB", image.size, color), mask=rim)


def captioned(
    image: Image.Image, title: str, lines: Sequence[str] = (), size: int = 15
) -> Image.Image:
    """The picture with a caption above it: a bold line, then faint ones, cut to the width."""
    height = round(size * 1.9 + 1.45 * size * len(lines))
    out = Image.new("RGB", (image.width, image.height + height), PANEL)
    out.paste(image, (0, height))
    draw = ImageDraw.Draw(out)
    margin = size // 2
    room = image.width - 2 * margin
    draw.text((margin, size // 3), _cut(title, font(size, True), room), INK, font(size, True))
    small = font(round(size * 0.87))
    for i, line in enumerate(lines):
        y = round(size * 1.75 + 1.4 * size * i)
        draw.text((margin, y), _cut(line, small, room), FAINT, small)
    return out


def _cut(text: str, face: ImageFont.FreeTypeFont, room: int) -> str:
    if face.getlength(text) <= room:
        return text
    while text and face.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


def side_by_side(images: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures in one row, their tops level."""
    height = max(i.height for i in images)
    width = sum(i.width for i in images) + gap * (len(images) - 1)
    out = Image.new("RGB", (width, height), BACKGROUND)
    x = 0
    for image in images:
        out.paste(image, (x, 0))
        x += image.width + gap
    return out


def contact_sheet(
    tiles: Sequence[Image.Image],
    title: str,
    lines: Sequence[str] = (),
    columns: int = 4,
    legend: Sequence[tuple[str, str]] = (),
) -> Image.Image:
    """Tiles in a grid under a heading and a legend of (colour, meaning)."""
    gap = 14
    columns = min(columns, len(tiles))
    wide, high = max(t.width for t in tiles), max(t.height for t in tiles)
    rows = -(-len(tiles) // columns)
    head = 52 + 24 * len(lines) + (30 if legend else 0)
    size = (max(columns * (wide + gap) + gap, 720), head + rows * (high + gap) + gap)
    out = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(out)
    room = size[0] - 2 * gap
    draw.text((gap, 12), _cut(title, font(24, True), room), INK, font(24, True))
    for i, line in enumerate(lines):
        draw.text((gap, 48 + 24 * i), _cut(line, font(15), room), FAINT, font(15))
    x, y = gap, head - 26
    for color, meaning in legend:
        draw.rectangle((x, y + 2, x + 22, y + 15), outline=color, width=3)
        draw.text((x + 30, y), meaning, INK, font(14))
        x += 56 + round(font(14).getlength(meaning))
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        out.paste(tile, (gap + column * (wide + gap), head + row * (high + gap)))
    return out


def before_and_after(
    film: UInt8[np.ndarray, "h w"], cleaned: UInt8[np.ndarray, "h w"], longest: int = 640
) -> Image.Image:
    """The film, the film without its bright artefacts, and what was taken out, in one row."""
    taken = np.where(film > cleaned, film - cleaned, cleaned - film)
    share = np.mean(film != cleaned)
    side = min(longest, max(film.shape))
    parts = [(film, "before"), (cleaned, "after"), (taken, f"taken out ({share:.2%} of pixels)")]
    return side_by_side(
        [captioned(Image.fromarray(fit_into(p, side)).convert("RGB"), t) for p, t in parts]
    )
