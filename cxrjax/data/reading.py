"""One film from disk, whatever its format: 8-bit gray and the facts about the file. The one way in.

Preparation, prediction, explanation and the window all read here, so a file has one answer.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from cxrjax.data import dicom, gray, inspection, masks, pictures, signatures
from cxrjax.data.gray import NEWEST
from cxrjax.data.unreadable import MAX_FILE_BYTES, Unreadable
from cxrjax.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RadiographFacts:
    """What a film was on disk, before it became 8-bit gray.

    Attributes:
      format: 'PNG', 'JPEG', 'TIFF', 'WebP', 'BMP', 'JPEG 2000' or 'DICOM'.
      mode: the stored colour layout: Pillow's mode ('L', 'I;16', 'RGB', 'RGBA', 'P', 'LA', '1')
        or DICOM's photometric interpretation ('MONOCHROME1', ...).
      bits: bits per sample as stored (DICOM: Bits Stored).
      height, width: pixels of the original.
      used: bits that the film's values use.
      gray: how values became gray: 'as stored', 'window 2048/4096 (LINEAR)', 'the range 0..4095 of
        its values (no window)', ...
      guessed: whether the file states no range of gray, so that it was taken from its values.
      modality, body_part, view, orientation: as the header says; '' where it does not.
      warnings: what is unusual for a frontal chest film, a line each.
    """

    format: str
    mode: str
    bits: int
    height: int
    width: int
    used: int = 8
    gray: str = "as stored"
    guessed: bool = False
    modality: str = ""
    body_part: str = ""
    view: str = ""
    orientation: str = ""
    warnings: tuple[str, ...] = ()


_HEADER = ("mode", "bits", "height", "width", "used", "gray", "guessed", "modality", "body_part",
           "view", "orientation")  # fmt: skip


def version_of(options: Mapping[str, Any]) -> int:
    """How a run or a prepared folder reads films: `reading` of its options; 1 before there was one.

    Raises:
      UserError: a number that this version does not know.
    """
    version = options.get("reading", 1)
    if version not in range(1, NEWEST + 1):
        raise UserError(
            f"dataset.reading = {version!r}: this version reads films in the ways 1 to {NEWEST}"
        )
    return version


def read_radiograph(
    path: str | os.PathLike[str], version: int = NEWEST, strict: bool = False
) -> UInt8[np.ndarray, "h w"]:
    """Reads one film as 8-bit gray, white = dense; see `read_radiograph_with_facts`."""
    return read_radiograph_with_facts(path, version, strict)[0]


def read_radiograph_with_facts(
    path: str | os.PathLike[str], version: int = NEWEST, strict: bool = False
) -> tuple[UInt8[np.ndarray, "h w"], RadiographFacts]:
    """Reads one film as 8-bit gray and says what it was on disk.

    The file's first bytes decide what it is, not its name (see `signatures`).

    Pictures (PNG, JPEG, TIFF, WebP, BMP, JPEG 2000). 8-bit gray comes back as it is; colour and
    palettes become ITU-R 601 luma, which leaves equal channels unchanged. An alpha channel that is
    not opaque is laid over black. An orientation tag is obeyed. 16-bit gray is scaled by the bits
    that the film uses (`gray.used_range`): 12-bit data in a 16-bit file fill the range as they
    should, burned-in letters aside; true 16-bit data lose only their low byte, and a film's
    contrast is never stretched to its own minimum. 16-bit colour, and gray with alpha, keep the
    high byte of each channel; refused where that would be nearly black.

    DICOM (one frame): the valid bits; modality LUT or rescale slope and intercept; then the VOI
    LUT, else the first window (LINEAR, LINEAR_EXACT or SIGMOID; PS3.3 C.11.2), whose output range
    becomes 0..255. With neither (or a window of width 0), 8-bit pixels that lie in 0..255 are
    display values and stay as they are; others are scaled by the bits that they use or, where they
    use less than half of those, by their own range. MONOCHROME1 and an INVERSE Presentation LUT
    Shape are inverted. Pixels marked as padding become black. Colour becomes luma.

    Args:
      path: the file.
      version: how a range that the file does not state is taken from its values, see `gray`: the
        newest, or the one that a run was trained with.
      strict: refuse what `facts.warnings` would say.

    Raises:
      UserError: missing, empty, truncated, damaged or too large a file, more than one frame, blank,
        or not a film at all; one line that names the file and the reason.
    """

    def read(data: bytes, kind: str) -> tuple[np.ndarray, RadiographFacts]:
        if kind == signatures.DICOM:
            shown, found = dicom.decode(data, version)
        else:
            shown, found = pictures.decode(data, kind, version)
        inspection.check_shape(*shown.shape)
        before = f", the way {version} of older runs" * (version < NEWEST)
        inspection.check_not_blank(shown, found["gray"] + before)
        warned = inspection.warnings_of(found) + inspection.look(shown, found)
        if strict and warned:
            raise Unreadable(f"{'; '.join(warned)} (refused by --strict)")
        facts = {key: found[key] for key in _HEADER if key in found}
        return shown, RadiographFacts(format=kind, warnings=warned, **facts)

    version_of({"reading": version})
    return _of_file(path, read)


def look_at(film: UInt8[np.ndarray, "h w"]) -> None:
    """Raises UserError for a film that is blank or of an impossible size, wherever it is from."""
    try:
        inspection.check_shape(*film.shape)
        inspection.check_not_blank(film, "as stored")
    except Unreadable as error:
        raise UserError(str(error)) from None


def read_mask(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w"]:
    """Reads a mask of one structure: 1 inside, 0 outside, by the rule of `masks.foreground`.

    Raises:
      UserError: as for a film, or values of which it is not clear what is inside.
    """

    def read(data: bytes, kind: str) -> np.ndarray:
        if kind == signatures.DICOM:
            shown, _ = dicom.decode(data, NEWEST)
            return masks.foreground(shown).astype(np.uint8)
        image, _ = pictures.open_picture(data, kind)
        return masks.of_picture(image).astype(np.uint8)

    return _of_file(path, read)


def _of_file(path: str | os.PathLike[str], read: Callable[[bytes, str], T]) -> T:
    """`read(bytes, kind)` of a file; whatever goes wrong is one line with the file's name."""
    path = Path(path)
    data = _bytes_of(path)
    kind = signatures.kind_of(data[: signatures.HEAD])
    if not kind:
        what = signatures.name_other(data[: signatures.HEAD])
        raise UserError(f"{path}: not a {signatures.FILMS} film ({what})")
    try:
        return read(data, kind)
    except Unreadable as error:
        reason = str(error)
    except MemoryError:
        reason = "more memory than there is is needed to decode it; make it smaller"
    # Decoders raise nearly anything on damaged bytes; for a user it is one thing: a broken file.
    except Exception as error:
        detail = " ".join(str(error).split())
        if not detail or "0x" in detail or isinstance(error, AttributeError | KeyError | TypeError):
            detail = type(error).__name__
        reason = f"damaged, truncated or of a {kind} kind that is not read ({detail[:150]})"
    raise UserError(f"{path}: {reason}") from None


def _bytes_of(path: Path) -> bytes:
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise UserError(f"{path}: is a folder, not a film")
        if not stat.S_ISREG(facts.st_mode):
            raise UserError(f"{path}: is a device or a pipe, not a film")
        if facts.st_size > MAX_FILE_BYTES:
            raise UserError(
                f"{path}: {facts.st_size / 2**20:,.0f} MB are more than the "
                f"{MAX_FILE_BYTES >> 20} that the file of one film may have"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not data:
        raise UserError(f"{path}: the file is empty (0 bytes); fetch it again")
    return data


def describe(facts: RadiographFacts) -> str:
    """A film's kind for an account, as 'PNG L, 8 bit'."""
    return f"{facts.format} {facts.mode}, {facts.bits} bit"


def same_in_every_version(kinds: Mapping[str, int], guessed: int | None) -> bool:
    """Whether films are the same whatever the version they are read by.

    Args:
      kinds: what they are (`describe`).
      guessed: how many of them state no range of gray; None in an account of before that was
        counted: all of more than 8 bits may have had none.
    """
    if guessed is not None:
        return guessed == 0
    return all(
        kind.startswith(("PNG ", "JPEG ", "array")) and kind.endswith((" 8 bit", ", 1 bit"))
        for kind in kinds
    )


__all__ = [
    "NEWEST", "RadiographFacts", "describe", "gray", "read_mask", "read_radiograph",
    "look_at", "read_radiograph_with_facts", "same_in_every_version", "version_of",
]  # fmt: skip
