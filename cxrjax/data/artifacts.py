"""Removal of bright artefacts (pacemakers, lines, letters), row by row."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Integer

from cxrjax.errors import UserError

_CHUNK_PIXELS = 2**20  # worked on at a time: about one film


def remove_bright_artifacts(
    image: Integer[np.ndarray, "*batch h w"],
    jump: int | float = 50,
    width: int = 40,
    columns: bool = False,
    bits: int | None = None,
) -> Integer[np.ndarray, "*batch h w"]:
    """Takes narrow bright bars (pacemakers, lines, letters) out of films, row by row.

    Left to right in a row x: at the first column c with x[c] - x[c-1] >= jump, look for the first
    column d in (c, c + width] with x[d-1] - x[d] >= jump and every pixel of [c, d) above both
    x[c-1] and x[d]. If there is one, the pixels c..d-1 become the mean of x[c-1] and x[d] (a half
    rounds up) and the scan goes on at d, else at c + 1. Every comparison and mean reads the
    original row. A bar that touches the left or right border has no second end and stays.

    Args:
      image: integer films, one or any batch of them; not changed.
      jump: the step, in gray levels of an 8-bit film, that counts as an edge.
      width: the widest bar, in pixels.
      columns: afterwards do the same down each column of the result.
      bits: bits of a pixel's range, where that is not the range of the dtype (12-bit data in
        uint16). Deeper films scale the step: jump * (2^bits - 1) / 255, so 50 is 12850 in uint16.

    Raises:
      UserError: pixels that are not integers, or a jump or width that is not positive.
    """
    image = np.asarray(image)
    if not np.issubdtype(image.dtype, np.integer):
        raise UserError(f"artefacts are taken out of integer films, not of {image.dtype}")
    if jump <= 0 or width < 1:
        raise UserError(f"jump and width must be positive, not {jump} and {width}")
    brightest = 2**bits - 1 if bits else int(np.iinfo(image.dtype).max)
    step = math.ceil(Fraction(jump) * brightest / 255)
    cleaned = _clean_rows(image, step, width)
    if columns:
        cleaned = _clean_rows(cleaned.swapaxes(-1, -2), step, width).swapaxes(-1, -2)
    return np.ascontiguousarray(cleaned)


def _clean_rows(image: np.ndarray, step: int, width: int) -> np.ndarray:
    cleaned = np.array(image, order="C")
    length = image.shape[-1]
    if length < 3 or not image.size:
        return cleaned
    # Rows are independent; a chunk of about one film keeps the list of edge pairs small even for
    # pure noise, and the work in the cache.
    rows = cleaned.reshape(-1, length)
    chunk = max(1, _CHUNK_PIXELS // length)
    for start in range(0, len(rows), chunk):
        _clean_chunk(rows[start : start + chunk].reshape(-1), length, step, width)
    return cleaned


def _clean_chunk(pixels: np.ndarray, length: int, step: int, width: int) -> None:
    """Cleans rows of `length` pixels, laid end to end in `pixels`, in place.

    Edges are rare, so they are found once for all pixels; then only pairs (rise c, fall d) that lie
    in one row and within `width` are looked at.
    """
    wide = pixels
    if np.issubdtype(pixels.dtype, np.signedinteger):
        wide = pixels.astype(np.int64)  # a difference of two int16 may need 17 bits
    before, after = wide[:-1], wide[1:]
    rises = np.flatnonzero(np.maximum(before, after) - before >= step) + 1
    rises = rises[rises % length != 0]
    if not len(rises):
        return
    falls = np.flatnonzero(before - np.minimum(before, after) >= step) + 1
    falls = falls[falls % length != 0]

    last = np.minimum(rises + width, rises - rises % length + length - 1)
    first_fall = np.searchsorted(falls, rises, side="right")
    count = np.searchsorted(falls, last, side="right") - first_fall
    if not count.any():
        return
    c = np.repeat(rises, count)
    d = falls[_ranges(first_fall, count)]
    # reduceat over (c, d, c, d, ...): the even entries are min(x[c:d]).
    lowest = np.minimum.reduceat(wide, np.stack([c, d], 1).ravel())[::2]
    holds = lowest > np.maximum(wide[c - 1], wide[d])
    c, d = c[holds], d[holds]
    nearest = np.ones(len(c), bool)
    nearest[1:] = c[1:] != c[:-1]
    c, d = c[nearest], d[nearest]

    kept, done = [], 0
    for i, (start, stop) in enumerate(zip(c.tolist(), d.tolist())):
        if start >= done:
            kept.append(i)
            done = stop
    if not kept:
        return
    c, d = c[kept], d[kept]
    total = wide[c - 1].astype(np.int64) + wide[d].astype(np.int64)
    mean = ((total + 1) // 2).astype(pixels.dtype)
    pixels[_ranges(c, d - c)] = np.repeat(mean, d - c)


def _ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """start[0], start[0] + 1, ... (count[0] of them), start[1], ... in one array."""
    ends = np.cumsum(count)
    return np.arange(ends[-1]) + np.repeat(start - (ends - count), count)
