"""One DICOM film as 8-bit gray: the only file that knows pydicom."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# 8192 x 8192, three times the largest detector; a crafted header could ask for gigabytes.
MAX_PIXELS = 2**26


class Unreadable(Exception):
    """A reason, without the file's name, that a film cannot be used."""


def check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise Unreadable(
            f"{width}x{height} pixels are more than the {MAX_PIXELS} that a film may have; "
            "make it smaller first"
        )
    if height < 1 or width < 1:
        raise Unreadable(f"a film of {width}x{height} pixels has nothing in it")


def decode(data: bytes) -> tuple[UInt8[np.ndarray, "h w"], str, int]:
    """The film in a DICOM file, by the rules that `preprocess.read_radiograph_with_facts` states.

    Returns:
      (pixels, photometric interpretation, bits stored).

    Raises:
      Unreadable: not a single gray (or true colour) picture, or a compression without a decoder.
      Exception: whatever pydicom raises on damaged bytes.
    """
    import pydicom
    import pydicom.pixels
    import pydicom.uid

    film = pydicom.dcmread(io.BytesIO(data), force=True)
    if "Rows" not in film or "Columns" not in film or "BitsAllocated" not in film:
        raise Unreadable("a DICOM file without a picture in it, truncated, or not DICOM at all")
    frames = int(film.get("NumberOfFrames") or 1)
    if frames > 1:
        raise Unreadable(f"{frames} frames in one DICOM file; give one film a file")
    check_size(int(film.Rows), int(film.Columns))
    if "PixelData" not in film:
        raise Unreadable("a DICOM header without pixels: truncated, or not a picture")
    if "TransferSyntaxUID" not in film.file_meta:
        film.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian
            if film.original_encoding[0]
            else pydicom.uid.ExplicitVRLittleEndian
        )
    try:
        pixels = pydicom.pixels.pixel_array(film)
    except RuntimeError as error:
        if "missing dependencies" not in str(error):
            raise
        raise Unreadable(
            f"DICOM compressed as {film.file_meta.TransferSyntaxUID.name}, which needs a decoder: "
            "install pylibjpeg with its plugins, or decompress the file"
        ) from None
    mode = str(film.PhotometricInterpretation)
    bits = int(film.BitsStored)
    if mode in ("MONOCHROME1", "MONOCHROME2"):
        return _gray(pixels, film, inverted=mode == "MONOCHROME1"), mode, bits
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        high_byte = (pixels >> max(0, bits - 8)).astype(np.uint8)
        return np.array(Image.fromarray(high_byte).convert("L")), mode, bits
    raise Unreadable(f"a DICOM file in {mode} is not a film; export it in gray")


def _gray(stored: np.ndarray, film: Any, inverted: bool) -> np.ndarray:
    """Stored values to what a viewer shows: modality, values of interest, 0..255, polarity."""
    from pydicom.pixels import apply_modality_lut

    if film.get("ModalityLUTSequence"):
        values = apply_modality_lut(stored, film)
    else:
        slope, intercept = film.get("RescaleSlope"), film.get("RescaleIntercept")
        values = stored * float(1 if slope is None else slope) + float(intercept or 0)
    display_values = values.min() >= 0 and values.max() <= 255 and int(film.BitsStored) == 8

    padding = np.zeros(stored.shape, bool)
    if film.get("PixelPaddingValue") is not None:
        one = int(film.PixelPaddingValue)
        other = film.get("PixelPaddingRangeLimit")
        other = one if other is None else int(other)
        padding = (stored >= min(one, other)) & (stored <= max(one, other))

    shown = _values_of_interest(values, film)
    if shown is None and display_values:
        shown = values / 255.0
    elif shown is None:
        inside = values[~padding] if not padding.all() else values
        low, high = float(inside.min()), float(inside.max())
        shown = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    if inverted:
        shown = 1.0 - shown
    return np.where(padding, 0, np.rint(255.0 * shown)).astype(np.uint8)


def _values_of_interest(values: np.ndarray, film: Any) -> np.ndarray | None:
    """`values` through the film's VOI LUT or first window, in 0..1; None where it has neither."""
    if film.get("VOILUTSequence"):
        item = film.VOILUTSequence[0]
        entries, first, depth = (int(v) for v in item.LUTDescriptor)
        table = item.LUTData
        if isinstance(table, bytes):
            order = "<" if film.original_encoding[1] else ">"
            table = np.frombuffer(table, f"{order}u2" if len(table) >= 2 * entries else "u1")
        table = np.asarray(table, np.float64)
        index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
        return np.clip(table[index] / (2**depth - 1), 0.0, 1.0)

    def first_of(name: str) -> float | None:
        value = film.get(name)
        if value is None or value == "":
            return None
        return float(value[0] if np.iterable(value) else value)

    center, width = first_of("WindowCenter"), first_of("WindowWidth")
    if center is None or width is None or not (math.isfinite(center) and 0 < width < math.inf):
        return None
    function = str(film.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    elif function != "LINEAR_EXACT":
        raise Unreadable(f"unknown VOI LUT function {function!r}")
    # A width of 1 is a threshold (PS3.3 C.11.2.1.2.1).
    return np.clip((values - center) / max(width, 1e-12) + 0.5, 0.0, 1.0)
