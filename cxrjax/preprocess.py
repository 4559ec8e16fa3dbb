"""Host-side, pure numpy: read any radiograph, resize it, take bright artefacts out of it."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, Shaped, UInt8
from PIL import Image, ImageOps

from cxrjax import dicom
from cxrjax.dicom import Unreadable, check_size
from cxrjax.errors import UserError

_CHUNK_PIXELS = 2**20
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
    film's contrast is never stretched to its own minimum. 16-bit colour, and gray with
    alpha, keep the high byte of each channel; refused where that would be nearly black.

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
    except Unreadable as error:
        reason = str(error)
    # Decoders raise nearly anything on damaged bytes; for a user it is one thing: a broken file.
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        reason = f"damaged, truncated or of a kind that cannot be decoded: {detail[:300]}"
    raise UserError(f"{path}: {reason}") from None


def _looks_like_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def _png_header(data: bytes) -> tuple[int, int, int]:
    """(width, height, bits) of a PNG whose chunks are all there and undamaged.

    Pillow accepts a file that ends anywhere after its last pixel, and skips the checksums of chunks
    that it does not need; a film in that state was cut off on its way and should be fetched again.
    """
    position, kind = len(_PNG_MAGIC), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise Unreadable(f"truncated: the PNG ends after {len(data)} bytes; fetch it again")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise Unreadable(f"truncated: the PNG ends after {len(data)} bytes; fetch it again")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise Unreadable("damaged: the checksum of a PNG chunk is wrong; fetch it again")
        position = end + 4
    width, height, bits = struct.unpack_from(">IIB", data, len(_PNG_MAGIC) + 8)
    return width, height, bits


def _read_dicom(data: bytes) -> tuple[np.ndarray, RadiographFacts]:
    pixels, mode, bits = dicom.decode(data)
    return pixels, RadiographFacts("DICOM", mode, bits, *pixels.shape)


def _read_picture(data: bytes) -> tuple[np.ndarray, RadiographFacts]:
    bits = 8
    if data.startswith(_PNG_MAGIC):
        width, height, bits = _png_header(data)
        check_size(height, width)
    elif b"\xff\xd9" not in data:
        raise Unreadable("truncated: the JPEG has no end marker; fetch it again")
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise Unreadable("a header that asks for more pixels than a film may have") from None
    width, height = image.size
    check_size(height, width)
    facts = RadiographFacts(str(image.format), image.mode, bits, height, width)
    if facts.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise Unreadable("an animation; give one film a file")
    image.load()
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _by_used_bits(np.asarray(image)), facts
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        if not alpha.any():
            raise Unreadable("every pixel is transparent; export the film without alpha")
        if alpha.min() < 255:
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, image)
        image = image.convert("RGB")
    gray = np.array(image.convert("L"))
    if bits == 16 and gray.max(initial=0) < 32:
        raise Unreadable(
            "16-bit colour (or gray with alpha) that uses 13 bits at most: its high bytes, which "
            "are all that can be read, are nearly black; export the film as 16-bit gray"
        )
    return gray, facts


def _by_used_bits(pixels: np.ndarray) -> np.ndarray:
    """Integer gray to 8 bits by the number of bits that the brightest pixel needs (8 at least)."""
    bits = max(8, int(pixels.max()).bit_length())
    return np.rint(pixels * (255.0 / (2**bits - 1))).astype(np.uint8)


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
