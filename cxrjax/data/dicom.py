"""One DICOM film as 8-bit gray: values as the standard means them (PS3.3 C.7.6.3, C.11)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cxrjax.data import dicom_display, dicom_file, gray
from cxrjax.data.dicom_file import numbers
from cxrjax.data.unreadable import Unreadable

_PALETTE = "PALETTE COLOR"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")


def decode(data: bytes, version: int) -> tuple[UInt8[np.ndarray, "h w"], dict[str, Any]]:
    """The film in a DICOM file, and facts: mode, bits, used, height, width, gray, and its header's.

    Raises:
      Unreadable: not a single picture in gray, colour or a palette, no decoder for its compression,
        or headers that contradict each other.
      Exception: whatever pydicom raises on damaged bytes.
    """
    film = dicom_file.read(data)
    facts = dicom_file.facts(film)
    mode = facts["mode"]
    samples = 1 if mode in (*_MONOCHROME, _PALETTE) else 3
    if mode not in (*_MONOCHROME, *_COLOUR, _PALETTE):
        what = f"in {mode}" if mode else "that does not say its Photometric Interpretation"
        raise Unreadable(f"a DICOM file {what} is not a film; export it in gray")
    if facts["samples"] != samples:
        raise Unreadable(
            f"{mode} with {facts['samples']} samples a pixel, where it has {samples}: the header "
            "contradicts itself; export the film again"
        )
    pixels = dicom_file.pixels_of(film, data, facts)
    if pixels.shape[:2] != (facts["height"], facts["width"]):
        raise Unreadable(
            f"its pixels are {list(pixels.shape)}, its header says {facts['height']} rows and "
            f"{facts['width']} columns"
        )
    if mode in _MONOCHROME:
        shown, more = dicom_display.show(pixels, film, facts, version)
    else:
        if mode == _PALETTE:
            pixels = _coloured(pixels, film)
            facts["bits"] = 8 * pixels.dtype.itemsize
        shown, more = _colour_to_gray(pixels, facts["bits"], version)
    return shown, facts | more


def _coloured(indexes: np.ndarray, film: Any) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    for name in ("Red", "Green", "Blue"):
        described = numbers(film, f"{name}PaletteColorLookupTableDescriptor")
        if len(described) != 3:
            raise Unreadable("a palette film without its palette; export it in gray")
    out = np.empty((*indexes.shape, 3), np.uint16)
    for rows in gray.row_blocks(indexes):
        part = apply_color_lut(indexes[rows], film)
        out[rows] = part
        if part.dtype == np.uint8:
            out[rows] *= 257
    return out


def _colour_to_gray(
    pixels: np.ndarray, bits: int, version: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Luma (ITU-R 601). Deep colour is scaled by the range that it uses, as gray pictures are."""
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise Unreadable(f"a colour film whose pixels are {list(pixels.shape)}; export it in gray")
    if pixels.dtype.kind != "u":
        raise Unreadable("a colour film with negative values; export it in gray")
    colour = np.ptp(pixels[:: max(1, len(pixels) // 64)].astype(np.int64), axis=-1)
    facts: dict[str, Any] = {"gray": "as stored", "used": min(bits, 8)}
    if version == 1 or bits <= 8:
        facts["colour"] = float(colour.mean()) / 2 ** max(0, bits - 8)
        out = np.empty(pixels.shape[:2], np.uint8)
        for rows in gray.row_blocks(pixels):
            high_byte = (pixels[rows] >> max(0, bits - 8)).astype(np.uint8)
            out[rows] = Image.fromarray(high_byte).convert("L")
        if bits > 8:
            facts |= {"gray": "the high byte of deep colour", "guessed": True}
        return out, facts
    luma = np.empty(pixels.shape[:2], np.uint16)
    for rows in gray.row_blocks(pixels):
        wide = pixels[rows].astype(np.uint32)
        luma[rows] = (299 * wide[..., 0] + 587 * wide[..., 1] + 114 * wide[..., 2] + 500) // 1000
    shown, used = gray.picture_to_gray(luma, version)
    facts["colour"] = float(colour.mean()) * 255 / (2**used - 1)
    return shown, facts | {
        "gray": f"the range 0..{2**used - 1} of its values", "used": used, "guessed": True,
    }  # fmt: skip
