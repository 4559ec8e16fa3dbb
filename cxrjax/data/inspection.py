"""Looking at what was read: what is no film is refused, what is an unusual one is said."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from cxrjax.data.unreadable import Unreadable

SMALLEST = 16  # pixels of a side; less is an icon, not a film
_LONGEST = 10  # times as long as wide: a strip of pixels
_UNUSUAL_SIDE, _UNUSUAL_RATIO, _UNUSUAL_PIXELS = 100, 2.5, 2**25
# The least share of pixels outside the densest 16 gray levels is 0.157 among the 4,871 films that
# we have (see tests/data/test_inspection.py).
_BLANK_LEVELS, _BLANK_SHARE = 16, 0.03
_INVERTED, _ON_ITS_SIDE = -0.4, 0.25  # see `look`

_RADIOGRAPHY = ("", "CR", "DX", "DR", "RG", "XR", "OT", "SC")
_CHEST = ("CHEST", "THORA", "TORA", "TÓRA", "LUNG", "PULM", "BRUST", "POITRINE")
_ANY_PART = ("", "UNKNOWN", "OTHER", "DEFAULT", "ANY", "NONE")
_FRONTAL = re.compile(r"^(AP|PA)\b|\bANTERO-?POSTERIOR|\bPOSTERO-?ANTERIOR|^FRONTAL|^(AP|PA)[_ ]")
_LATERAL_SERIES = re.compile(r"(?<![A-Z])(LAT|LATERAL|LL|SEITLICH|PROFIL)(?![A-Z])")
_FRONTAL_SERIES = re.compile(r"(?<![A-Z])(PA|AP|FRONTAL)(?![A-Z])")


def check_shape(height: int, width: int) -> None:
    """Raises Unreadable for sizes that no film has."""
    short, long = sorted((height, width))
    if short < SMALLEST:
        raise Unreadable(f"{width}x{height} pixels are too few for a film")
    if long > _LONGEST * short:
        raise Unreadable(f"{width}x{height} pixels are a strip, not a film")


def check_not_blank(shown: UInt8[np.ndarray, "h w"], how: str) -> None:
    """Raises Unreadable where nearly all pixels have nearly one gray level.

    Args:
      shown: the film in 8-bit gray.
      how: how its values became gray, for the message.
    """
    some = _thinned(shown, 64)  # most films are clear from a part of their pixels
    if _densest(some)[0] <= 1 - 2 * _BLANK_SHARE:
        return
    share, counts = _densest(shown)
    if share <= 1 - _BLANK_SHARE:
        return
    held = np.flatnonzero(counts)
    reason = "" if how == "as stored" else f" (read by {how})"
    if len(held) == 1:
        raise Unreadable(f"a blank film: every pixel is gray level {held[0]}{reason}")
    level = int(np.argmax(counts))
    raise Unreadable(
        f"a nearly blank film: {share:.1%} of its pixels lie within {_BLANK_LEVELS} gray levels, "
        f"around {level}{reason}"
    )


def _thinned(shown: np.ndarray, side: int) -> np.ndarray:
    """Every n-th pixel, so that the shorter side has `side` of them or some more."""
    step = max(1, min(shown.shape) // side)
    return shown[::step, ::step]


def _densest(shown: np.ndarray) -> tuple[float, np.ndarray]:
    """(share of the pixels within the densest `_BLANK_LEVELS` gray levels, pixels of each level)"""
    if shown.size > 2**15:  # Pillow's needs a copy, and counts faster
        counts = np.array(Image.fromarray(np.ascontiguousarray(shown)).histogram()[:256])
    else:
        counts = np.bincount(shown.ravel(), minlength=256)
    sums = np.zeros(257, np.int64)
    np.cumsum(counts, out=sums[1:])
    densest = sums[_BLANK_LEVELS:] - sums[:-_BLANK_LEVELS]
    return float(densest.max() / shown.size), counts


def warnings_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What of the file's own statements is unusual for a frontal chest film, a line each.

    Args:
      facts: of the file: height, width, and where they are known modality, body_part, view,
        series, orientation, aspect, colour, stray_bits.
    """
    found = []
    modality = facts.get("modality", "")
    if modality not in _RADIOGRAPHY:
        found.append(f"modality {modality}, not a radiograph")
    part = facts.get("body_part", "").upper()
    if part not in _ANY_PART and not any(word in part for word in _CHEST):
        found.append(f"body part {facts['body_part']}, not the chest")
    if view := _unusual_view(facts):
        found.append(view)
    if lie := _unusual_orientation(facts.get("orientation", "")):
        found.append(lie)
    aspect = facts.get("aspect", 1.0)
    if not 0.95 <= aspect <= 1.05:
        how = f"{aspect:.2g} times as high as wide"
        found.append(f"pixels that are not square ({how}): its shapes are distorted")
    height, width = facts["height"], facts["width"]
    if min(height, width) < _UNUSUAL_SIDE:
        found.append(f"only {width}x{height} pixels")
    if max(height, width) > _UNUSUAL_RATIO * min(height, width):
        found.append(f"an unusual shape, {width}x{height} pixels")
    if height * width > _UNUSUAL_PIXELS:
        found.append(f"an unusual size, {width}x{height} pixels")
    if facts.get("colour", 0.0) > 8:
        found.append("a colour picture, read as gray")
    if facts.get("stray_bits"):
        found.append("bits above Bits Stored are set, and left out")
    return tuple(found)


def look(shown: UInt8[np.ndarray, "h w"], facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What of the picture itself is unusual, where the header does not say how it lies.

    On a frontal chest film the middle is brighter than the fields on both its sides, and by more
    than if the film were turned by a quarter. Contrasts are in standard deviations of the film made
    32 x 32. Measured by `pytest -m slow -s -k as_measured tests/data/test_inspection.py` on 4,864
    films of three collections, as they are: 0.14% are said to look inverted (ChestX-ray14 0.23%,
    COVID 0.38%, all others 0), 0.12% to lie on their side (ChestX-ray14 0.38%). Of the same films
    inverted 88% are said to be so, of those turned by a quarter 94% to lie on their side. Films
    that are upside down, mirrored or lateral were not told from others well enough to say so: for
    these only headers count.

    Args:
      shown: the film in 8-bit gray.
      facts: of the file, see `warnings_of`.
    """
    if min(shown.shape) < 64 or _unusual_view(facts):
        return ()
    # With 64 pixels a side 87.3% of the inverted ones are found, with 128 88.4%.
    small = Image.fromarray(np.ascontiguousarray(_thinned(shown, 128)))
    film = np.asarray(small.resize((32, 32), Image.Resampling.BOX), np.float32)
    flat = film.ravel()
    upright, turned, mean = (_CONTRASTS @ flat).tolist()
    spread = max(math.sqrt(max(float(flat @ flat) / flat.size - mean**2, 0.0)), 1.0)
    upright, turned = upright / spread, turned / spread
    if upright < _INVERTED and -upright > abs(turned):
        return ("it looks inverted (bright lungs)",)
    if turned > upright + _ON_ITS_SIDE and not facts.get("orientation"):
        return ("it looks as if the film lies on its side",)
    return ()


def _contrasts() -> Float32[np.ndarray, "3 n"]:
    """Weights on a film of 32 x 32: middle of the chest less the fields beside it, the same of the
    film turned, and the mean. One product for every film that is ever read.
    """
    middle = np.zeros((32, 32), np.float32)
    middle[9:20, 13:19] = 1 / (11 * 6)
    for columns in (slice(5, 12), slice(20, 27)):
        middle[9:20, columns] = -1 / (11 * 7 * 2)
    return np.stack([middle.ravel(), middle.T.ravel(), np.full(32 * 32, 1 / 32**2, np.float32)])


_CONTRASTS = _contrasts()


def _unusual_view(facts: Mapping[str, Any]) -> str:
    view = facts.get("view", "").upper()
    if view and not _FRONTAL.search(view):
        return f"view {facts['view']}, not frontal"
    row = facts.get("orientation", "").partition("\\")[0]
    if row[:1] in ("A", "P"):
        return f"patient orientation {facts['orientation']}: not a frontal view"
    series = facts.get("series", "").upper()
    if not view and _LATERAL_SERIES.search(series) and not _FRONTAL_SERIES.search(series):
        return f"series {facts['series']!r}: a lateral view"
    return ""


def _unusual_orientation(orientation: str) -> str:
    """What PatientOrientation (row\\column) says of how the film lies; '' for upright or unknown.

    Upright, a row runs to the patient's left (L) and a column to the feet (F).
    """
    row, _, column = orientation.partition("\\")
    row, column = row[:1], column[:1]
    said = f"patient orientation {orientation}: "
    if row in ("H", "F") or column in ("L", "R", "A", "P"):
        return said + "the film lies on its side"
    if row in ("A", "P"):
        return ""  # said as a view
    if row == "R" and column == "H":
        return said + "the film is upside down"
    if row == "R":
        return said + "the film is mirrored, left for right"
    if column == "H":
        return said + "the film is mirrored, head for feet"
    return ""
