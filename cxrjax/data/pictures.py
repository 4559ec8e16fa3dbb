"""PNG and JPEG films as 8-bit gray."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from cxrjax.data.dicom import Unreadable, check_size

# The first bytes of a file.
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_ORIENTATION = 0x0112  # the EXIF tag


def _png_header(data: bytes) -> tuple[int, int, int]:
    """(width, height, bits) of a PNG whose chunks are all there and undamaged.

    Pillow accepts a file that ends anywhere after its last pixel, and skips the checksums of chunks
    that it does not need; a film in that state was cut off on its way and should be fetched again.
    """
    position, kind = len(PNG_MAGIC), b""
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
    width, height, bits = struct.unpack_from(">IIB", data, len(PNG_MAGIC) + 8)
    return width, height, bits


def decode(data: bytes) -> tuple[UInt8[np.ndarray, "h w"], tuple[str, str, int, int, int]]:
    """A PNG or JPEG as 8-bit gray, and (format, Pillow's mode, bits, height, width) as stored.

    Raises:
      Unreadable: truncated, damaged, empty or too large.
    """
    bits = 8
    if data.startswith(PNG_MAGIC):
        width, height, bits = _png_header(data)
        check_size(height, width)
    elif _JPEG_END not in data:
        raise Unreadable("truncated: the JPEG has no end marker; fetch it again")
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise Unreadable("a header that asks for more pixels than a film may have") from None
    width, height = image.size
    check_size(height, width)
    facts = (str(image.format), image.mode, bits, height, width)
    if facts[0] == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise Unreadable("an animation; give one film a file")
    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:
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
