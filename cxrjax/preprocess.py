"""Host-side, pure numpy: read any radiograph, resize it, take bright artefacts out of it."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageOps

from cxrjax.errors import UserError

# 8192 x 8192: three times the largest detector, four gigabytes short of what a crafted header asks.
MAX_PIXELS = 2**26
FITS = ("stretch", "pad", "crop")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".dic")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"


@dataclasses.dataclass(frozen=True)
class RadiographFacts:
    """What a film was on disk, before it became 8-bit gray.

    Attributes:
      format: 'PNG', 'JPEG' or 'DICOM'.
      mode: the stored colour layout: Pillow's mode ('L', 'I;16', 'RGB', 'RGBA', 'P', 'LA', '1')
        or DICOM's photometric interpretation ('MONOCHROME1', ...).
      bits: bits per sample as stored (DICOM: Bits Stored).
      height, width: pixels of the original.
    """

    format: str
    mode: str
    bits: int
    height: int
    width: int


def read_radiograph(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w"]:
    """Reads one film as 8-bit gray, white = dense; see `read_radiograph_with_facts`."""
    return read_radiograph_with_facts(path)[0]


def read_radiograph_with_facts(
    path: str | os.PathLike[str],
) -> tuple[UInt8[np.ndarray, "h w"], RadiographFacts]:
    """Reads one film as 8-bit gray and says what it was on disk.

    The file's first bytes decide what it is, not its name (only a DICOM file that lacks its magic
    is known by `.dcm`).

    PNG and JPEG. 8-bit gray comes back as it is; colour and palettes become ITU-R 601 luma, which
    leaves equal channels unchanged. An alpha channel that is not opaque is laid over black. A
    JPEG's orientation tag is obeyed. 16-bit gray is scaled by the bits that the film uses, b = the
    bit length of its brightest pixel (8 at least): round(255 x / (2^b - 1)). So 12-bit data in a
    16-bit file fill the range as they should, true 16-bit data lose only their low byte, and a
    film's contrast is never stretched to its own minimum. 16-bit colour keeps the high byte of each
    channel.

    DICOM (one frame): modality LUT or rescale slope and intercept; then the VOI LUT, else the first
    window (LINEAR, LINEAR_EXACT or SIGMOID; PS3.3 C.11.2), whose output range becomes 0..255. With
    neither (or a window of width 0), 8-bit pixels that lie in 0..255 are display values and
    stay as they are; detector values carry no display range, so the film's own minimum..maximum
    becomes 0..255. MONOCHROME1 is inverted. Pixels marked as padding become black.

    Raises:
      UserError: missing, empty, truncated, damaged or too large a file, more than one frame, or not
        a film at all; one line that names the file and the reason.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a film") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not data:
        raise UserError(f"{path}: the file is empty (0 bytes); fetch it again")

    if data[128:132] == b"DICM" or (
        path.suffix.lower() in _DICOM_SUFFIXES and not data.startswith((_PNG_MAGIC, _JPEG_MAGIC))
    ):
        reader = _read_dicom
    elif data.startswith((_PNG_MAGIC, _JPEG_MAGIC)):
        reader = _read_picture
    else:
        kind = "a text file" if _looks_like_text(data[:512]) else "something else"
        raise UserError(f"{path}: not a PNG, JPEG or DICOM film ({kind} by its first bytes)")
    try:
        return reader(data)
    except _Unreadable as error:
        reason = str(error)
    # Decoders raise nearly anything on damaged bytes; for a user it is one thing: a broken file.
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        reason = f"damaged, truncated or of a kind that cannot be decoded: {detail[:300]}"
    raise UserError(f"{path}: {reason}") from None


class _Unreadable(Exception):
    """A reason, without the file's name, that a film cannot be used."""


def _looks_like_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise _Unreadable(
            f"{width}x{height} pixels are more than the {MAX_PIXELS} that a film may have; "
            "make it smaller first"
        )
    if height < 1 or width < 1:
        raise _Unreadable(f"a film of {width}x{height} pixels has nothing in it")


def _png_header(data: bytes) -> tuple[int, int, int]:
    """(width, height, bits) of a PNG whose chunks are all there and undamaged.

    Pillow accepts a file that ends anywhere after its last pixel, and skips the checksums of chunks
    that it does not need; a film in that state was cut off on its way and should be fetched again.
    """
    position, kind = len(_PNG_MAGIC), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise _Unreadable(f"truncated: the PNG ends after {len(data)} bytes; fetch it again")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise _Unreadable(f"truncated: the PNG ends after {len(data)} bytes; fetch it again")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise _Unreadable("damaged: the checksum of a PNG chunk is wrong; fetch it again")
        position = end + 4
    width, height, bits = struct.unpack_from(">IIB", data, len(_PNG_MAGIC) + 8)
    return width, height, bits


def _read_picture(data: bytes) -> tuple[np.ndarray, RadiographFacts]:
    bits = 8
    if data.startswith(_PNG_MAGIC):
        width, height, bits = _png_header(data)
        _check_size(height, width)
    elif b"\xff\xd9" not in data[-4096:]:
        raise _Unreadable("truncated: the JPEG has no end marker; fetch it again")
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise _Unreadable("a header that asks for more pixels than a film may have") from None
    width, height = image.size
    _check_size(height, width)
    facts = RadiographFacts(str(image.format), image.mode, bits, height, width)
    if facts.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise _Unreadable("an animation; give one film a file")
    image.load()
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _by_used_bits(np.asarray(image)), facts
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        if not alpha.any():
            raise _Unreadable("every pixel is transparent; export the film without alpha")
        if alpha.min() < 255:
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, image)
        image = image.convert("RGB")
    return np.array(image.convert("L")), facts


def _by_used_bits(pixels: np.ndarray) -> np.ndarray:
    """Integer gray to 8 bits by the number of bits that the brightest pixel needs (8 at least)."""
    bits = max(8, int(pixels.max()).bit_length())
    return np.rint(pixels * (255.0 / (2**bits - 1))).astype(np.uint8)


def _read_dicom(data: bytes) -> tuple[np.ndarray, RadiographFacts]:
    import pydicom
    import pydicom.pixels
    import pydicom.uid

    film = pydicom.dcmread(io.BytesIO(data), force=True)
    if "Rows" not in film or "Columns" not in film or "BitsAllocated" not in film:
        raise _Unreadable("a DICOM file without a picture in it, truncated, or not DICOM at all")
    frames = int(film.get("NumberOfFrames") or 1)
    if frames > 1:
        raise _Unreadable(f"{frames} frames in one DICOM file; give one film a file")
    _check_size(int(film.Rows), int(film.Columns))
    if "PixelData" not in film:
        raise _Unreadable("a DICOM header without pixels: truncated, or not a picture")
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
        raise _Unreadable(
            f"DICOM compressed as {film.file_meta.TransferSyntaxUID.name}, which needs a decoder: "
            "install pylibjpeg with its plugins, or decompress the file"
        ) from None
    mode = str(film.PhotometricInterpretation)
    bits = int(film.BitsStored)
    facts = RadiographFacts("DICOM", mode, bits, int(film.Rows), int(film.Columns))
    if mode in ("MONOCHROME1", "MONOCHROME2"):
        return _dicom_gray(pixels, film, inverted=mode == "MONOCHROME1"), facts
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        high_byte = (pixels >> max(0, bits - 8)).astype(np.uint8)
        return np.array(Image.fromarray(high_byte).convert("L")), facts
    raise _Unreadable(f"a DICOM file in {mode} is not a film; export it in gray")


def _dicom_gray(stored: np.ndarray, film: Any, inverted: bool) -> np.ndarray:
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
    if center is None or width is None or width <= 0:
        return None
    function = str(film.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    elif function != "LINEAR_EXACT":
        raise _Unreadable(f"unknown VOI LUT function {function!r}")
    # A width of 1 is a threshold (PS3.3 C.11.2.1.2.1).
    return np.clip((values - center) / max(width, 1e-12) + 0.5, 0.0, 1.0)


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise UserError(f"unknown fit {fit!r}: one of {', '.join(FITS)}")


def _resize(image: np.ndarray, size: int, fit: str, resample: Image.Resampling) -> np.ndarray:
    _check_fit(fit)
    if size < 1:
        raise UserError(f"a film cannot be resized to {size} pixels")
    height, width = image.shape
    if fit == "stretch":
        return np.array(Image.fromarray(image).resize((size, size), resample))
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = np.ascontiguousarray(image[top : top + side, left : left + side])
        return np.array(Image.fromarray(square).resize((size, size), resample))
    inner_h, inner_w, top, left = _pad_geometry(height, width, size)
    canvas = np.zeros((size, size), np.uint8)
    canvas[top : top + inner_h, left : left + inner_w] = np.asarray(
        Image.fromarray(image).resize((inner_w, inner_h), resample)
    )
    return canvas


def _pad_geometry(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """(height, width, top, left) of the film inside its black square."""
    longest = max(height, width)
    inner_h = max(1, round(size * height / longest))
    inner_w = max(1, round(size * width / longest))
    return inner_h, inner_w, (size - inner_h) // 2, (size - inner_w) // 2


def resize(
    image: UInt8[np.ndarray, "h w"], size: int, fit: str = "stretch"
) -> UInt8[np.ndarray, "size size"]:
    """A film as a square of `size` pixels, by Pillow's LANCZOS (bit for bit).

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

    Masks of 0/1 (or bool) are taken as they are; where a value exceeds 1 the mask is one of 0..255
    and what lies above 127 is inside.
    """
    inside = mask > (127 if mask.dtype != bool and mask.max(initial=0) > 1 else 0)
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
