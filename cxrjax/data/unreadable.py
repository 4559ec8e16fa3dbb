"""Why a film cannot be used, and how large one may be."""

from __future__ import annotations

# 8192 x 8192, twice the largest detector; a crafted header could ask for gigabytes.
MAX_PIXELS = 2**26
# What one film may take while it is decoded, its file and its pixels together.
MAX_BYTES = 640 * 2**20
MAX_FILE_BYTES = 2**28


class Unreadable(Exception):
    """A reason, without the file's name, that a film cannot be used."""


def check_size(height: int, width: int, bytes_a_pixel: int | float = 1, file: int = 0) -> None:
    """Raises Unreadable for a film that is empty, or too large to be decoded in bounded memory.

    Args:
      height, width: as the header says.
      bytes_a_pixel: what decoding takes at its peak (measured, see the callers).
      file: bytes of the file, which are held meanwhile.
    """
    if height < 1 or width < 1:
        raise Unreadable(f"a film of {width}x{height} pixels has nothing in it")
    if height * width > MAX_PIXELS:
        raise Unreadable(
            f"{width}x{height} pixels are more than the {MAX_PIXELS} that a film may have; "
            "make it smaller first"
        )
    needed = height * width * bytes_a_pixel + file
    if needed > MAX_BYTES:
        raise Unreadable(
            f"{width}x{height} pixels of this kind take {needed / 2**20:,.0f} MB to decode, more "
            f"than the {MAX_BYTES >> 20} that one film may; make it smaller, or save it as PNG"
        )
