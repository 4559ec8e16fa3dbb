"""From stored values to what a viewer shows: modality, values of interest, 0..255, polarity.

pydicom's own functions are not used for that, and here is why. `apply_voi` refuses a table that is
shorter than its descriptor says, and shows one that fills less than its bits as black;
`apply_windowing` answers in the range of storage; `apply_modality_lut` needs both slope and
intercept; none knows padding, nor in what order it goes with inversion; and all work on arrays of
float64 as large as the film. Tests hold the values here to theirs where those are right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cxrjax.data import gray
from cxrjax.data.dicom_file import numbers, text
from cxrjax.data.unreadable import Unreadable

Convert = Callable[[np.ndarray], np.ndarray]  # values to values, element by element


def show(
    pixels: np.ndarray, film: Any, facts: dict[str, Any], version: int
) -> tuple[UInt8[np.ndarray, "h w"], dict[str, Any]]:
    """A monochrome film as 8-bit gray, white = dense, and facts: gray, used, guessed.

    Args:
      pixels: integers as they lie in the file, h x w.
      film: the data set.
      facts: of `dicom_file.facts`.
      version: how a range is guessed, see `gray`.
    """
    if pixels.ndim != 2 or pixels.dtype.kind not in "ui":
        raise Unreadable(f"pixels {list(pixels.shape)} of {pixels.dtype} are not a gray film")
    padding = _padding(film, facts)
    stored = np.empty(pixels.shape, pixels.dtype)
    padded, stray = False, 0
    for rows in gray.row_blocks(pixels):
        stored[rows] = _valid_bits(pixels[rows], facts)
        if padding is not None:
            padded |= bool(padding(pixels[rows], stored[rows]).any())
        stray += int((stored[rows] != pixels[rows]).sum())

    def inside(rows: slice) -> np.ndarray:
        return ~padding(pixels[rows], stored[rows])

    counts, first, step = gray.histogram(stored, inside if padded else None)
    if not counts.any():
        raise Unreadable("every pixel is padding: there is no film in it")
    modality, linear = _modality(film)
    shown, how, guessed = _values_of_interest(film)
    if shown is None:
        shown, how, guessed = _by_range(counts, first, step, modality, linear, facts, version, how)
    inverted = facts["mode"] == "MONOCHROME1" or text(film, "PresentationLUTShape") == "INVERSE"

    def convert(values: np.ndarray) -> np.ndarray:
        part = shown(modality(values))
        return np.rint(255.0 * (1.0 - part if inverted else part)).astype(np.uint8)

    out = gray.by_table(stored, convert)
    if padded:  # background, after the inversion
        for rows in gray.row_blocks(pixels):
            out[rows][~inside(rows)] = 0
    held = np.flatnonzero(counts)
    most = max(abs(first + int(held[0]) * step), abs(first + int(held[-1]) * step))
    more: dict[str, Any] = {
        "gray": how + ", inverted" * inverted + ", without its padding" * padded,
        "used": most.bit_length(), "guessed": guessed,
    }  # fmt: skip
    if stray > 0.01 * pixels.size and facts["high_bit"] == facts["bits"] - 1 and not padded:
        more["stray_bits"] = True
    return out, more


def _valid_bits(pixels: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """The Bits Stored up to High Bit, with their sign; above and below may lie anything."""
    allocated = 8 * pixels.dtype.itemsize
    if facts["allocated"] != allocated:  # bits that pydicom unpacked, or a decoder's own size
        return pixels
    up = allocated - 1 - facts["high_bit"]
    down = allocated - facts["bits"]
    if not up and not down:
        return pixels
    return np.right_shift(np.left_shift(pixels, up), down)


def _padding(film: Any, facts: dict[str, Any]) -> Callable | None:
    """(pixels in the file, their valid bits) -> which are padding; None where none is said.

    The value is one of the pixels, so it has their sign, whatever VR the file gives it.
    """
    value = numbers(film, "PixelPaddingValue")
    if not value:
        return None
    limit = numbers(film, "PixelPaddingRangeLimit") or value
    bits = max(8, facts["allocated"])

    def with_sign(number: float) -> int:
        whole = int(number) % 2**bits
        return whole - 2**bits if facts["signed"] and whole >= 2 ** (bits - 1) else whole

    low, high = sorted((with_sign(value[0]), with_sign(limit[0])))

    def is_padding(raw: np.ndarray, stored: np.ndarray) -> np.ndarray:
        return ((stored >= low) & (stored <= high)) | ((raw >= low) & (raw <= high))

    return is_padding


def _table(item: Any, film: Any, what: str) -> tuple[np.ndarray, int, int]:
    """(entries, the value that the first is for, bits) of a lookup table.

    The bits are those that the entries use where the descriptor says more: tables of 12 bits are
    found under 16. Entries of 8 bits may be packed two to a word.
    """
    described = numbers(item, "LUTDescriptor")
    if len(described) != 3:
        raise Unreadable(f"damaged: its {what} has no descriptor")
    entries, first, depth = (int(v) for v in described)
    entries = entries or 2**16
    if numbers(film, "PixelRepresentation")[:1] == [1.0] and first >= 2**15:
        first -= 2**16  # the VR of the descriptor may have lost the sign
    data = item.get("LUTData")
    if isinstance(data, bytes):
        order = "<" if film.original_encoding[1] else ">"
        data = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * entries else "u1")
    elif data is None or data == "":
        raise Unreadable(f"damaged: its {what} is empty")
    table = np.atleast_1d(np.asarray(data, np.float64))[:entries]
    if not len(table) or not 1 <= depth <= 16:
        raise Unreadable(f"damaged: its {what} is empty, or of {depth} bits")
    used = int(table.max()).bit_length()
    return table, first, used if used else depth


def _modality(film: Any) -> tuple[Convert, bool]:
    """Stored values to those of the modality, and whether that is a line."""
    if film.get("ModalityLUTSequence"):
        table, first, _ = _table(film.ModalityLUTSequence[0], film, "Modality LUT")
        return lambda v: table[np.clip(v - first, 0, len(table) - 1)], False
    slope = (numbers(film, "RescaleSlope") or [1.0])[0]
    intercept = (numbers(film, "RescaleIntercept") or [0.0])[0]
    if slope == 0:
        raise Unreadable("Rescale Slope is 0, which makes every pixel the same: mend the header")
    return lambda v: v * slope + intercept, True


def _values_of_interest(film: Any) -> tuple[Convert | None, str, bool]:
    """(values to 0..1 by the film's VOI LUT or first window, how to call that, False).

    (None, why, False) where it has neither.
    """
    if film.get("VOILUTSequence"):
        table, first, bits = _table(film.VOILUTSequence[0], film, "VOI LUT")

        def by_table(values: np.ndarray) -> np.ndarray:
            index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
            return np.clip(table[index] / (2**bits - 1), 0.0, 1.0)

        return by_table, f"VOI LUT of {bits} bits", False
    centers, widths = numbers(film, "WindowCenter"), numbers(film, "WindowWidth")
    if not centers or not widths:
        return None, "no window", False
    center, width = centers[0], widths[0]
    if width <= 0:
        return None, f"Window Width {width:g} is no window", False
    function = text(film, "VOILUTFunction").upper() or "LINEAR"
    several = f", the first of {len(widths)}" if len(widths) > 1 else ""
    how = f"window {center:g}/{width:g} ({function}{several})"
    if function == "SIGMOID":
        return lambda v: 1.0 / (
            1.0 + np.exp(np.clip(-4.0 * (v - center) / width, -700, 700))
        ), how, False
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    elif function != "LINEAR_EXACT":
        raise Unreadable(f"unknown VOI LUT function {function!r}")
    # A width of 1 is a threshold (PS3.3 C.11.2.1.2.1).
    return lambda v: np.clip((v - center) / max(width, 1e-12) + 0.5, 0.0, 1.0), how, False


def _by_range(
    counts: np.ndarray, first: int, step: int, modality: Convert, linear: bool,
    facts: dict[str, Any], version: int, why: str,
) -> tuple[Convert, str, bool]:
    """Values to 0..1 by what the film itself holds, as no range is stated."""
    values = first + np.flatnonzero(counts) * step
    meant = modality(values)
    low, high = float(meant.min()), float(meant.max())
    if facts["bits"] == 8 and low >= 0 and high <= 255:
        return lambda v: v / 255.0, "as stored", False
    if version > 1 and linear:
        ends = gray.used_range(counts, first, step, stretch=True)
        low, high = sorted(float(v) for v in modality(np.array(ends)))
    elif version > 1:  # a table may send any value anywhere
        heights = np.bincount(np.rint(meant).astype(np.int64), weights=counts[counts > 0])
        low, high = gray.used_range(heights.astype(np.int64), stretch=True)
    return (
        lambda v: gray.scale(v, low, high),
        f"the range {low:g}..{high:g} of its values ({why})", True,
    )  # fmt: skip
