"""The headers of compressed pictures, read before anything is decoded.

A decoder takes memory by what its own header says, whatever the file around it says, and most fill
what is missing with gray and say nothing. So sizes are compared, and ends looked for, here.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct

import numpy as np
from PIL import Image

from cxrjax.data.unreadable import Unreadable

# Markers that begin a JPEG frame (SOF0..15 without DHT, JPG and DAC), and JPEG-LS's.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {0xF7}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_LS_SCAN_END = re.compile(rb"\xff[\x80-\xfe]")  # JPEG-LS stuffs a bit, not a byte
FILLER = b"\x5a\xa5\x3c\x96\x0f" * 12
_MOST_TILES = 4096


@dataclasses.dataclass(frozen=True)
class Header:
    """What a codestream says of itself; `kind` is JPEG's frame marker, 0 for JPEG 2000."""

    height: int
    width: int
    bits: int
    samples: int
    kind: int = 0


def jpeg(data: bytes) -> tuple[Header, int]:
    """(header, position of the end marker) of a JPEG or JPEG-LS stream.

    Raises:
      Unreadable: no frame in it, or no end.
    """
    header, position = None, 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            if data[position : position + 2] == b"\xff\xd9" and header:
                return header, position
            raise Unreadable("truncated: the JPEG has no end marker; fetch it again")
        marker = data[position + 1]
        if marker == 0xFF or marker == 0:
            position += 1
        elif marker == 0xD9:
            if header is None:
                raise Unreadable("damaged: a JPEG without a picture in it; fetch it again")
            return header, position
        elif marker in _ALONE:
            position += 2
        else:
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            if marker in _FRAMES and header is None:
                if position + 10 > len(data):
                    raise Unreadable("truncated: the JPEG ends in its header; fetch it again")
                bits, height, width, samples = struct.unpack_from(">BHHB", data, position + 4)
                header = Header(height, width, bits, samples, marker)
            position += 2 + length
            if marker == 0xDA:
                ends = _LS_SCAN_END if header and header.kind == 0xF7 else _SCAN_END
                found = ends.search(data, position)
                if found is None:
                    raise Unreadable("truncated: the JPEG has no end marker; fetch it again")
                position = found.start()


def in_passes(data: bytes) -> bool:
    """Whether a JPEG is built up in passes (progressive), or in another way than the usual one."""
    try:
        return jpeg(data)[0].kind not in (0xC0, 0xC1)
    except Unreadable:
        return True


def check_jpeg_is_whole(data: bytes, shown: np.ndarray) -> None:
    """Raises Unreadable for a JPEG that was cut off and closed with its end marker.

    The decoder shows what is missing as gray 128, or not at all where the picture is built up in
    passes; it does not say so. But bytes that are put before the end marker change nothing where
    every pixel has had its own, and are taken for the missing ones where not. That costs a second
    decoding, so it is done only if the last corner is flat.

    Args:
      data: the file.
      shown: its pixels, gray or colour, as they lie in the file.
    """
    try:
        header, end = jpeg(data)
    except Unreadable:
        if b"\xff\xd9" not in data:
            raise
        return  # an order of markers that the decoder may know
    corner = shown[-4:, -4:]
    usual = header.kind in (0xC0, 0xC1)
    if usual and (corner != corner[-1, -1]).any():
        return
    if header.bits != 8:
        return  # Pillow decodes no others
    if usual and header.samples <= 3 and abs(int(np.ravel(corner)[-1]) - 128) > 2:
        return
    filled = data[:end] + FILLER + b"\xff\xd9"
    try:
        again = np.asarray(Image.open(io.BytesIO(filled), formats=("JPEG",)))
        whole = np.asarray(Image.open(io.BytesIO(data), formats=("JPEG",)))
        same = np.array_equal(again, whole)
    except (OSError, SyntaxError, ValueError):
        same = False
    if not same:
        raise Unreadable(
            "truncated: the JPEG was cut off and closed with an end marker; fetch it again"
        )


def jpeg2000(data: bytes) -> Header:
    """The header of a JPEG 2000 codestream (in JP2 boxes or not) whose tiles are all there.

    Raises:
      Unreadable: no codestream, parts missing, or one that would take memory without bound.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0 or start + 44 > len(data):
        raise Unreadable("damaged: a JPEG 2000 picture without its codestream; fetch it again")
    right, down, left, up, tile_w, tile_h, _, _, samples = struct.unpack_from(
        ">8IH", data, start + 8
    )
    height, width = down - up, right - left
    if not 1 <= samples <= 4 or height < 1 or width < 1 or tile_w < 1 or tile_h < 1:
        raise Unreadable("damaged: the header of its JPEG 2000 codestream makes no sense")
    tiles = -(-width // tile_w) * -(-height // tile_h)
    if tiles > _MOST_TILES:
        raise Unreadable(f"a JPEG 2000 picture of {tiles:,} tiles, more than {_MOST_TILES:,}")
    parts = struct.unpack_from(f">{3 * samples}B", data + bytes(12), start + 42)
    bits = max((depth & 0x7F) + 1 for depth in parts[::3])
    if any(step != 1 for step in (*parts[1::3], *parts[2::3])):
        raise Unreadable("a JPEG 2000 picture whose channels differ in size; export it in gray")
    _check_tile_parts(data, start)
    return Header(height, width, bits, samples)


def _check_tile_parts(data: bytes, start: int) -> None:
    """Each part of a tile says how long it is; together they lead to the end marker."""
    position = start + 2
    while True:
        if position + 2 > len(data):
            raise Unreadable("truncated: the JPEG 2000 codestream has no end; fetch it again")
        marker = int.from_bytes(data[position : position + 2], "big")
        if marker == 0xFFD9:
            return
        if not 0xFF30 <= marker <= 0xFFFF:
            raise Unreadable("damaged: the JPEG 2000 codestream breaks off between its parts")
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xFF90:
            part = int.from_bytes(data[position + 6 : position + 10], "big")
            if part == 0:  # up to the end
                if b"\xff\xd9" not in data[-4:]:
                    raise Unreadable("truncated: the JPEG 2000 codestream has no end")
                return
            position += max(part, 14)
        else:
            position += 2 + length


def rle_length(data: bytes, limit: int) -> int:
    """Bytes that a DICOM RLE frame unpacks to; counting stops above `limit`."""
    if len(data) < 64:
        raise Unreadable("truncated: the RLE frame ends in its header; fetch it again")
    number, *offsets = struct.unpack_from("<16I", data)
    if not 1 <= number <= 15:
        raise Unreadable("damaged: the header of its RLE frame makes no sense")
    total = 0
    for begin, end in zip(offsets[:number], [*offsets[1:number], len(data)]):
        position = begin
        while position < min(end, len(data)) and total <= limit:
            count = data[position]
            if count < 128:
                total += count + 1
                position += count + 2
            else:
                total += 257 - count if count > 128 else 0
                position += 2 if count > 128 else 1
    return total
