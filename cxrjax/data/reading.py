"""One film from disk, whatever its format: 8-bit gray and the facts about the file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cxrjax.data import dicom, pictures
from cxrjax.data.dicom import Unreadable
from cxrjax.data.pictures import JPEG_MAGIC, PNG_MAGIC
from cxrjax.errors import UserError

_DICOM_SUFFIXES = (".dcm", ".dicom", ".dic")


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
        path.suffix.lower() in _DICOM_SUFFIXES and not data.startswith((PNG_MAGIC, JPEG_MAGIC))
    ):
        reader = _read_dicom
    elif data.startswith((PNG_MAGIC, JPEG_MAGIC)):
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


def _read_dicom(data: bytes) -> tuple[np.ndarray, RadiographFacts]:
    pixels, mode, bits = dicom.decode(data)
    return pixels, RadiographFacts("DICOM", mode, bits, *pixels.shape)


def _read_picture(data: bytes) -> tuple[np.ndarray, RadiographFacts]:
    pixels, facts = pictures.decode(data)
    return pixels, RadiographFacts(*facts)
