"""PNG, JPEG, TIFF, WebP, BMP and JPEG 2000 films as 8-bit gray: the only file that opens them."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from cxrjax.data import codestreams, gray, signatures
from cxrjax.data.unreadable import MAX_BYTES, Unreadable, check_size

# The first bytes of a file.
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PILLOW = {
    signatures.PNG: "PNG", signatures.JPEG: "JPEG", signatures.TIFF: "TIFF",
    signatures.WEBP: "WEBP", signatures.BMP: "BMP", signatures.JPEG2000: "JPEG2000",
}  # fmt: skip
# Bytes a pixel at the peak of decoding, measured with films of 16 million pixels: the decoder's
# own arrays, Pillow's picture and our copies.
_COST = {
    signatures.PNG: 8, signatures.JPEG: 11, signatures.TIFF: 9, signatures.WEBP: 18,
    signatures.BMP: 8, signatures.JPEG2000: 10,
}  # fmt: skip
_COST_IN_PASSES = 22  # a progressive JPEG is held whole as coefficients
_ORIENTATION, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 262, 322, 323
_STRIP = 512  # rows

# Sizes are checked here, before a pixel is decoded, and what is wrong with a file is ours to say.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")


def _png_header(data: bytes) -> tuple[int, int, int, int]:
    """(width, height, bits, colour type) of a PNG whose chunks are all there and undamaged.

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
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise Unreadable("damaged: the PNG does not begin with its header; fetch it again")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, len(PNG_MAGIC) + 8)
    return width, height, bits, colour


def open_picture(data: bytes, kind: str) -> tuple[Image.Image, int]:
    """A picture, loaded and looked over, and its bits a sample.

    Raises:
      Unreadable: truncated, damaged, several pictures in one file, or too large.
    """
    bits, cost = 8, _COST[kind]
    if kind == signatures.PNG:
        width, height, bits, _ = _png_header(data)
        check_size(height, width, cost, len(data))
    elif kind == signatures.JPEG:
        if b"\xff\xd9" not in data:
            raise Unreadable("truncated: the JPEG has no end marker; fetch it again")
        cost = _COST_IN_PASSES if codestreams.in_passes(data) else cost
    elif kind == signatures.JPEG2000:
        header = codestreams.jpeg2000(data)
        bits = header.bits
        check_size(header.height, header.width, cost * header.samples, len(data))
    elif kind == signatures.WEBP and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise Unreadable(f"truncated: the WebP ends after {len(data)} bytes; fetch it again")
    try:
        image = Image.open(io.BytesIO(data), formats=(_PILLOW[kind],))
    except Image.DecompressionBombError:
        raise Unreadable("a header that asks for more pixels than a film may have") from None
    width, height = image.size
    check_size(height, width, cost, len(data))
    if kind == signatures.TIFF:
        bits = _check_tiff(image)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and kind != signatures.JPEG:  # a JPEG may carry a preview beside the film
        what = "pages" if kind == signatures.TIFF else "frames of an animation"
        raise Unreadable(f"{frames} {what} in one {kind} file; give one film a file")
    image.load()
    if kind == signatures.JPEG:
        codestreams.check_jpeg_is_whole(data, np.asarray(image))
    return image, bits


def _check_tiff(image: Any) -> int:
    """Bits a sample of a TIFF, whose tiles must fit in memory."""
    tags = image.tag_v2
    tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
    if tile * 8 > MAX_BYTES:
        raise Unreadable(f"damaged: a TIFF whose tiles have {tile:,} pixels")
    bits = tags.get(258, 1)
    return int(max(bits) if isinstance(bits, tuple) else bits)


def decode(
    data: bytes, kind: str, version: int
) -> tuple[UInt8[np.ndarray, "h w"], dict[str, Any]]:
    """A picture as 8-bit gray, and facts: mode, bits, used, height, width, gray, and more.

    Raises:
      Unreadable: as `open_picture`, or values that have no gray.
    """
    image, bits = open_picture(data, kind)
    facts: dict[str, Any] = {
        "mode": image.mode, "bits": bits, "height": image.height, "width": image.width,
        "aspect": _aspect(image), "used": min(bits, 8), "gray": "as stored",
    }  # fmt: skip
    white_is_zero = kind == signatures.TIFF and image.tag_v2.get(_PHOTOMETRIC) == 0
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise Unreadable("a picture of floating-point numbers, which say no gray: save it as PNG")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if not 0 <= int(values.min()) <= int(values.max()) < 2**16:
            raise Unreadable(
                f"values from {values.min()} to {values.max()}, which no film has: save it as "
                "16-bit PNG"
            )
        del image
        shown, facts["used"] = gray.picture_to_gray(values, version)
        facts |= {"gray": f"the range 0..{2 ** facts['used'] - 1} of its values", "guessed": True}
        # Pillow turns 8-bit films whose 0 is white, and leaves deeper ones.
        return 255 - shown if white_is_zero else shown, facts
    shown, colour = _flat(image)
    facts["colour"] = colour
    if bits > 8:
        _check_high_bytes(shown, bits, version)
        facts["gray"] = "the high byte of deep colour"
    return shown, facts


def _check_high_bytes(shown: np.ndarray, bits: int, version: int) -> None:
    """Raises Unreadable where the high bytes of a deep picture leave nothing to be seen."""
    if version == 1:
        used = int(shown.max()).bit_length()
    else:
        # A burned-in letter is no film: as `used_range`, for 8 bits.
        low, high = gray.used_range(*gray.histogram(shown.astype(np.uint16) << 8))
        used = max(0, (high - low).bit_length() - 8)
    if used <= 5:
        raise Unreadable(
            f"{bits}-bit colour (or gray with alpha) that uses 13 bits at most: its high bytes, "
            "which are all that can be read, are nearly black; export the film as 16-bit gray"
        )


def _flat(image: Image.Image) -> tuple[np.ndarray, float]:
    """8-bit gray (ITU-R 601 luma; transparency over black), and how coloured the picture is.

    Colour is the mean distance, in gray levels, of the channels of some pixels from each other.
    """
    colour = 0.0
    if not image.has_transparency_data:
        if image.mode not in ("L", "1", "LA"):
            colour = _colour(image)
        return np.array(image if image.mode == "L" else image.convert("L")), colour
    out = np.empty((image.height, image.width), np.uint8)
    seen = False
    for top in range(0, image.height, _STRIP):  # four bytes a pixel, four times over
        box = (0, top, image.width, min(image.height, top + _STRIP))
        strip = image.crop(box).convert("RGBA")
        alpha = np.asarray(strip.getchannel("A"))
        seen |= bool(alpha.any())
        colour = max(colour, _colour(strip))
        if alpha.min() < 255:
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, (0, 0, 0, 255)), strip)
        out[top : box[3]] = strip.convert("RGB").convert("L")
    if not seen:
        raise Unreadable("every pixel is transparent; export the film without alpha")
    return out, colour


def _colour(image: Image.Image) -> float:
    small = image.resize((min(64, image.width), min(64, image.height)), Image.Resampling.NEAREST)
    pixels = np.asarray(small.convert("RGB")).astype(np.int16)
    return float(np.ptp(pixels, axis=-1).mean())


def _aspect(image: Image.Image) -> float:
    """Height of a pixel by its width, 1 where the file does not say."""
    info = image.info
    pair = info.get("jfif_density") if info.get("jfif_unit") == 0 else info.get("dpi")
    try:
        across, down = (float(v) for v in pair or info.get("aspect") or (0, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0
    return across / down if across > 0 and down > 0 else 1.0
