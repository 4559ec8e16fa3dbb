"""From the values of a film to 8-bit gray: the range that they use, by what the film holds.

A header gives the size of storage, not the range of values, and the brightest pixel may be a letter
that was burned in. What `used_range` says is the newest way to guess a range. A run is served the
way that it was trained with: its checkpoint carries the number (`config.dataset.reading`; runs of
before there was one have 1), and so do prepared films.

  1  16-bit pictures by the bits of the brightest pixel, DICOM films without a window from their
     least to their greatest value, deep colour by its high byte.
  2  `used_range`, for all of them.

Films that state their gray (8 bits, a window, a VOI LUT) are read alike by both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int, Integer, UInt8

NEWEST = 2

BURNED_IN = 0.1  # of the pixels may lie outside the range, at most
_STRAY = 0.001  # so few pixels set no scale, whatever their values
_BLOCK_PIXELS = 2**20
_BINS = 2**20


def row_blocks(pixels: np.ndarray) -> Iterator[slice]:
    """Slices of rows of about a million pixels: what is computed wide is computed piecewise."""
    rows = max(1, _BLOCK_PIXELS // max(1, pixels[0].size))
    for start in range(0, len(pixels), rows):
        yield slice(start, start + rows)


def histogram(
    pixels: Integer[np.ndarray, "h w"], inside: Callable[[slice], Any] | None = None
) -> tuple[Int[np.ndarray, " n"], int, int]:
    """How often each value occurs.

    Args:
      pixels: integers of any size.
      inside: for rows of the film, which pixels count (padding does not); None: all.

    Returns:
      (counts, first, step): counts[i] pixels have values from first + i step, `step` of them.
    """
    low, high = int(pixels.min()), int(pixels.max())
    step = 1
    while (high - low) // step >= _BINS:
        step *= 2
    counts = np.zeros((high - low) // step + 1, np.int64)
    for rows in row_blocks(pixels):
        block = pixels[rows]
        if inside is not None:
            block = block[inside(rows)]
        index = (block.astype(np.int64).ravel() - low) // step
        counts += np.bincount(index, minlength=len(counts))
    return counts, low, step


def used_range(
    counts: Int[np.ndarray, " n"], first: int = 0, step: int = 1, stretch: bool = False
) -> tuple[int, int]:
    """The range of values that becomes black to white.

    It is 0..2^b - 1 (with negative values -2^(b-1)..2^(b-1) - 1) for the least b >= 8 that holds
    the film. What lies above a quarter of a larger range does not count as film if it is a tenth of
    the pixels or less, with next to nothing just above the film, and flat (half of it in two of 64
    bands of values, as a letter is) or very little. So a letter at 65535 leaves a 12-bit film as it
    is, and a film that fills its 16 bits keeps them: its values reach all the way up.

    Args:
      counts, first, step: of `histogram`.
      stretch: detector values, not those of a display: a film that uses less than half of that
        range is shown from its 0.1% to its 99.9% quantile.

    Returns:
      (low, high), low < high.
    """
    if not counts.any():
        return 0, 255
    held = np.flatnonzero(counts)
    low, high = first + int(held[0]) * step, first + (int(held[-1]) + 1) * step - 1
    signed = low < 0
    full = max(8, high.bit_length() + signed, (-low - 1).bit_length() + 1 if signed else 0)
    bits = next((b for b in range(8, full - 1) if _holds(counts, first, step, b, signed)), full)
    bottom, top = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if not stretch:
        return bottom, top
    values = first + np.arange(len(counts)) * step
    film = np.where((values >= bottom) & (values <= top), counts, 0)
    share = np.cumsum(film) / film.sum()
    least = int(values[np.searchsorted(share, _STRAY)])
    greatest = int(values[min(np.searchsorted(share, 1 - _STRAY), len(values) - 1)])
    if 2 * (greatest - least) < top - bottom and greatest > least:
        return least, greatest
    return bottom, top


def _holds(counts: np.ndarray, first: int, step: int, bits: int, signed: bool) -> bool:
    """Whether `bits` hold the film, all else being burned in or stray."""
    reach = 2 ** (bits - signed)

    def index(value: int | float) -> int:
        return int(np.clip(-(-(value - first) // step), 0, len(counts)))

    above = counts[index(reach) :]
    below = counts[: index(-reach)] if signed else counts[:0]
    total, outside = counts.sum(), above.sum() + below.sum()
    if outside > BURNED_IN * total:
        return False
    near = counts[index(reach) : index(1.5 * reach)].sum()
    if signed:
        near += counts[index(-1.5 * reach) : index(-reach)].sum()
    if near > _STRAY * total or near > 0.1 * outside:
        return False
    beyond = np.concatenate([above, below])
    width = max(1, len(counts) // 64)
    bands = np.add.reduceat(beyond, np.arange(0, len(beyond), width))
    return bool(outside <= _STRAY * total or 2 * np.sort(bands)[-2:].sum() >= outside)


def scale(values: np.ndarray, low: int | float, high: int | float) -> np.ndarray:
    """Values of low..high as 0..1, what lies outside clipped."""
    return np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)


def by_table(
    pixels: Integer[np.ndarray, "h w"], convert: Callable[[np.ndarray], np.ndarray]
) -> UInt8[np.ndarray, "h w"]:
    """`convert` of every pixel, computed once for each value that can occur."""
    low, high = int(pixels.min()), int(pixels.max())
    out = np.empty(pixels.shape, np.uint8)
    table = convert(np.arange(low, high + 1)) if high - low < _BINS else None
    for rows in row_blocks(pixels):
        block = pixels[rows].astype(np.int64)
        out[rows] = convert(block) if table is None else table[block - low]
    return out


def picture_to_gray(
    pixels: Integer[np.ndarray, "h w"], version: int
) -> tuple[UInt8[np.ndarray, "h w"], int]:
    """A deep picture (16-bit PNG, TIFF) as 8-bit gray, and the bits that it uses."""
    if version == 1:
        low, high = 0, 2 ** max(8, int(pixels.max()).bit_length()) - 1
    else:
        low, high = used_range(*histogram(pixels))
    gray = by_table(pixels, lambda v: np.rint(255.0 * scale(v, low, high)).astype(np.uint8))
    return gray, (high - low).bit_length()
