"""What of a mask is inside, whatever program wrote it. The rule stands here, once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image, ImageFilter

from cxrjax.data.unreadable import Unreadable

_CLASSES = 16  # a span of fewer gray levels holds class numbers, not shades
_EDGE = 0.2  # of the pixels may lie between the two levels: a smoothed edge
_WIDE = 5  # pixels: what lies between and is wider is no edge but a third level
_THIRD = 0.005  # of the pixels is enough for one


def foreground(values: Shaped[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """What is inside, by a mask's values of one channel.

    Two values (0/1, 0/255, 1/2, any two): the greater is inside. One value: 0 is all outside, any
    other all inside. More values that span 16 or more: shades (a smoothed edge, JPEG) of two
    levels, cut in the middle.

    Raises:
      Unreadable: more than two class numbers, or three levels.
    """
    if values.dtype == bool:
        return values
    least, greatest = values.min(), values.max()
    if least == greatest:
        return np.full(values.shape, bool(greatest != 0))
    between = values[(values > least) & (values < greatest)]
    if not between.size:
        return values == greatest
    span = float(greatest) - float(least)
    shade = (values - float(least)) / span
    middle = (shade > 0.2) & (shade < 0.8)
    inner = Image.fromarray(middle.astype(np.uint8)).filter(ImageFilter.MinFilter(_WIDE))
    third = np.asarray(inner).mean() > _THIRD
    if span < _CLASSES or third or middle.mean() > _EDGE:
        found = np.unique(values)
        shown = ", ".join(f"{float(v):g}" for v in found[:5]) + ", ..." * (len(found) > 5)
        raise Unreadable(
            f"a mask of {len(found)} values ({shown}) where two are expected, inside and outside: "
            "give one mask for each structure"
        )
    return values > float(least) + span / 2


def of_picture(image: Image.Image) -> Bool[np.ndarray, "h w"]:
    """What is inside, by a mask as a picture.

    A palette or colours mean classes, whatever their brightness: black is outside (a palette
    without black: its number 0), any other colour inside. Where transparency varies, what is
    transparent is outside.

    Raises:
      Unreadable: as `foreground`; two colours beside black.
    """
    if image.mode == "P" and not image.has_transparency_data:
        return _of_palette(image)
    if image.mode in ("1", "L") or image.mode.startswith(("I", "F")):
        return foreground(np.asarray(image))
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        alpha = pixels[..., 3]
        if alpha.min() == 255:
            return _of_colours(pixels[..., :3])
        opaque = foreground(alpha) if alpha.any() else np.zeros(alpha.shape, bool)
        drawn = np.where(opaque[..., None], pixels[..., :3], 0)
        # Painted black on nothing is painted all the same.
        return _of_colours(drawn) if drawn.any() else opaque
    return _of_colours(np.asarray(image.convert("RGB")))


def _of_palette(image: Image.Image) -> np.ndarray:
    index = np.asarray(image)
    used = np.unique(index)
    colours = np.zeros((256, 3), np.uint8)
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    colours[: len(palette)] = palette
    own = colours[used]
    if (own == own[:, :1]).all():  # a gray picture that was saved with a palette
        gray = colours[:, 0]
        return foreground(gray[index]) if len(set(own[:, 0].tolist())) > 1 else foreground(index)
    black = used[~own.any(1)]
    outside = black if len(black) else used[used == 0]
    inside = [v for v in used.tolist() if v not in outside]
    if len(inside) > 1 and len({tuple(c) for c in colours[inside].tolist()}) > 1:
        raise Unreadable(
            f"a mask of the classes {', '.join(map(str, used.tolist()[:6]))} where two are "
            "expected, inside and outside: give one mask for each structure"
        )
    return np.isin(index, inside)


def _of_colours(pixels: np.ndarray) -> np.ndarray:
    """By RGB u8[h, w, 3]: gray by its values, else what is nearer to its colour than to black."""
    if (pixels == pixels[..., :1]).all():
        return foreground(pixels[..., 0])
    packed = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    found, counts = np.unique(packed, return_counts=True)
    main = found[(counts > 0.02 * packed.size) & (found > 0)]
    rgb = np.stack([main >> 16, main >> 8 & 255, main & 255], -1).astype(np.int64)
    bright = rgb[rgb.max(-1, initial=0) > 64] if len(rgb) else rgb
    if len(bright) and np.ptp(bright, axis=0).max() > 64:
        raise Unreadable(
            f"a mask of {len(bright)} colours beside black where one is expected: give one mask "
            "for each structure"
        )
    brightness = pixels.max(-1)
    return brightness > int(brightness.max()) // 2
