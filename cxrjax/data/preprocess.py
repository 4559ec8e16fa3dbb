"""Host-side, pure numpy: films, masks and boxes as squares of one size."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from cxrjax.data import masks
from cxrjax.data.unreadable import Unreadable
from cxrjax.errors import UserError

FITS = ("stretch", "pad", "crop")


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise UserError(f"unknown fit {fit!r}: one of {', '.join(FITS)}")


def _resize(image: np.ndarray, size: int, fit: str, resample: Image.Resampling) -> np.ndarray:
    _check_fit(fit)
    if size < 1:
        raise UserError(f"a film cannot be resized to {size} pixels")
    height, width = image.shape
    if fit == "stretch":
        return _to_size(image, size, size, resample)
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = np.ascontiguousarray(image[top : top + side, left : left + side])
        return _to_size(square, size, size, resample)
    inner_h, inner_w, top, left = _pad_geometry(height, width, size)
    canvas = np.zeros((size, size), np.uint8)
    canvas[top : top + inner_h, left : left + inner_w] = _to_size(image, inner_h, inner_w, resample)
    return canvas


def _to_size(
    image: np.ndarray, height: int, width: int, resample: Image.Resampling
) -> np.ndarray:
    """Pillow's resize: the rows first, then the columns, each rounded to 8 bits.

    In two calls: since Pillow 13 one call begins with the columns where that is less work, and some
    pixels are others then.
    """
    rows = Image.fromarray(image).resize((width, image.shape[0]), resample)
    return np.array(rows.resize((width, height), resample))


def _pad_geometry(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """(height, width, top, left) of the film inside its black square."""
    longest = max(height, width)
    inner_h = max(1, round(size * height / longest))
    inner_w = max(1, round(size * width / longest))
    return inner_h, inner_w, (size - inner_h) // 2, (size - inner_w) // 2


def resize(
    image: UInt8[np.ndarray, "h w"], size: int, fit: str = "stretch"
) -> UInt8[np.ndarray, "size size"]:
    """A film as a square of `size` pixels, by Pillow's LANCZOS (bit for bit that of
    Pillow 12 and before, whatever is installed).

    Args:
      fit: 'stretch' (both sides to `size`, the aspect ratio is lost; what published ChestX-ray14
        work does), 'pad' (the longer side to `size`, centred on black) or 'crop' (the central
        square of the shorter side).

    Raises:
      UserError: unknown `fit`, or `size` below 1.
    """
    return _resize(image, size, fit, Image.Resampling.LANCZOS)


def resize_mask(
    mask: Shaped[np.ndarray, "h w"], size: int, fit: str = "stretch"
) -> UInt8[np.ndarray, "size size"]:
    """A mask resized like its film, by nearest neighbour: 0 or 1.

    Raises:
      UserError: values of which it is not clear what is inside, see `masks.foreground`.
    """
    try:
        inside = masks.foreground(mask)
    except Unreadable as error:
        raise UserError(str(error)) from None
    return _resize(inside.astype(np.uint8), size, fit, Image.Resampling.NEAREST)


def resize_boxes(
    boxes: Float[np.ndarray, "n 4"], height: int, width: int, size: int, fit: str = "stretch"
) -> Float[np.ndarray, "n 4"]:
    """Boxes (x0, y0, x1, y1) in pixels of a film of height x width, in pixels of the resized film.

    What 'crop' cuts off is cut off the boxes too; a box that lies outside comes back with no area.
    """
    _check_fit(fit)
    boxes = np.asarray(boxes, np.float64)
    left = top = 0.0
    scale_x, scale_y = size / width, size / height
    if fit == "crop":
        side = min(height, width)
        scale_x = scale_y = size / side
        left, top = -((width - side) // 2) * scale_x, -((height - side) // 2) * scale_y
    elif fit == "pad":
        inner_h, inner_w, top, left = _pad_geometry(height, width, size)
        scale_x, scale_y = inner_w / width, inner_h / height
    moved = boxes * [scale_x, scale_y, scale_x, scale_y] + [left, top, left, top]
    return np.clip(moved, 0.0, float(size))
