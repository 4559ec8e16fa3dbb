"""What of a film is on a screen, as a value, and the picture of it; the window and the page draw
by it.

Everything here is pure: a `View` says what is shown, functions make another one of it (zoomed,
moved, with another window), `render` draws it. A picture has a room of `width` x `height` pixels;
the film lies in its middle, as large as the room allows at zoom 1.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cxrjax.explanation import drawing, heatmaps
from cxrjax.serving import looking
from cxrjax.serving.looking import Network, Reading

GAP = 12  # pixels between before and after
CLOSEST = 16.0  # zoom
GRAY = 255.0
RIM = 16  # pixels, more than the line around a structure is wide


@dataclasses.dataclass(frozen=True)
class View:
    """What of a reading is on the screen.

    Attributes:
      finding: whose heat map and boxes; None shows the film alone.
      opacity: of the heat.
      threshold: part of the map's maximum from which a region stands out.
      heat, boxes, masks: what is laid over the film.
      before_after: the film beside itself without bright artefacts, instead of all that.
      colors: scale of the heat, one of `drawing.COLORS`.
      zoom: 1 is the whole film.
      center: (x, y) of the film's point in the middle of the room, in fractions of the film.
      level, window: middle and width of the gray values 0..255 that become black to white.
    """

    finding: int | None = None
    opacity: int | float = 0.5
    threshold: int | float = 0.5
    heat: bool = True
    boxes: bool = True
    masks: bool = False
    before_after: bool = False
    colors: str = drawing.COLORS[0]
    zoom: int | float = 1.0
    center: tuple[float, float] = (0.5, 0.5)
    level: int | float = GRAY / 2
    window: int | float = GRAY


# --- geometry


def room(view: View, width: int, height: int) -> tuple[int, int]:
    """(width, height) that one film has: before and after share the room."""
    return (max(1, (width - GAP) // 2), height) if view.before_after else (width, height)


def part_of(shape: tuple[int, int], view: View, width: int, height: int) -> drawing.Part:
    """What is seen of a film of `shape` (height, width) in a room for one film.

    The part never reaches beyond the film; where all of it fits, all of it is seen.
    """
    wide, high = _size(shape, view.zoom, width, height)
    seen_wide, seen_high = min(width, wide), min(height, high)
    left = round(view.center[0] * wide - seen_wide / 2)
    top = round(view.center[1] * high - seen_high / 2)
    left, top = min(max(0, left), wide - seen_wide), min(max(0, top), high - seen_high)
    return drawing.Part(high, wide, left, top, left + seen_wide, top + seen_high)


def _size(
    shape: tuple[int, int], zoom: int | float, width: int, height: int
) -> tuple[int, int]:
    """(width, height) of the whole film at a zoom."""
    scale = min(width / shape[1], height / shape[0])
    longest = max(1, round(zoom * scale * max(shape)))
    wide, high = (max(1, round(side * longest / max(shape))) for side in (shape[1], shape[0]))
    return wide, high


def zoomed(
    view: View, shape: tuple[int, int], width: int, height: int, factor: int | float,
    x: int | float = 0, y: int | float = 0,
) -> View:
    """Closer by `factor`; what lies at (x, y), pixels from the middle of the room, stays there.

    It stays as long as the film's border does not come into the room.
    """
    zoom = min(CLOSEST, max(1.0, view.zoom * factor))
    before = _size(shape, view.zoom, width, height)
    after = _size(shape, zoom, width, height)
    center = tuple(c + d / b - d / a for c, d, b, a in zip(view.center, (x, y), before, after))
    return _inside(dataclasses.replace(view, zoom=zoom, center=center), shape, width, height)


def moved(
    view: View, shape: tuple[int, int], width: int, height: int, dx: int | float, dy: int | float,
) -> View:
    """The film pulled by (dx, dy) pixels, as far as it fills the room."""
    wide, high = _size(shape, view.zoom, width, height)
    center = (view.center[0] - dx / wide, view.center[1] - dy / high)
    return _inside(dataclasses.replace(view, center=center), shape, width, height)


def _inside(view: View, shape: tuple[int, int], width: int, height: int) -> View:
    """The same with its centre where the film fills the room; in the middle if it does not."""
    center = []
    for at, side, most in zip(view.center, _size(shape, view.zoom, width, height),
                              (width, height)):
        half = min(most, side) / side / 2
        center.append(min(max(at, half), 1 - half))
    return dataclasses.replace(view, center=(center[0], center[1]))


def from_middle(
    view: View, shape: tuple[int, int], width: int, height: int, x: int | float, y: int | float,
) -> tuple[float, float]:
    """A point, (x, y) from the middle of the picture, from the middle of the film that it is on."""
    if view.before_after:
        part = part_of(shape, view, *room(view, width, height))
        x -= np.copysign((part.right - part.left + GAP) / 2, x)
    return float(x), float(y)


def windowed(view: View, dx: int | float, dy: int | float) -> View:
    """The gray window after a drag: wider to the right, its level higher (darker) downwards.

    One pixel is one gray value of the level, and one of the window's width.
    """
    window = min(2 * GRAY, max(1.0, view.window + dx))
    level = min(GRAY, max(0.0, view.level + dy))
    return dataclasses.replace(view, window=window, level=level)


def reset(view: View) -> View:
    """The whole film in all its gray values."""
    plain = View()
    return dataclasses.replace(view, zoom=plain.zoom, center=plain.center, level=plain.level,
                               window=plain.window)


def grays(view: View) -> UInt8[np.ndarray, 256]:
    """What each gray value is shown as: 0 up to level - window / 2, 255 from level + window / 2 on,
    and a line between (DICOM's LINEAR_EXACT, PS3.3 C.11.2.1.3.2)."""
    low = view.level - view.window / 2
    line = GRAY * (np.arange(256) - low) / view.window
    return np.floor(np.clip(line, 0, GRAY) + 0.5).astype(np.uint8)


# --- pictures


def render(reading: Reading, view: View, width: int, height: int) -> Image.Image:
    """The film as large as `width` x `height` allow, with what the view lays over it."""
    each = room(view, width, height)
    part = part_of(reading.film.shape, view, *each)
    table = grays(view)
    if view.before_after:
        pair = [
            Image.fromarray(table[drawing.cut_out(p, part)]).convert("RGB")
            for p in (reading.film, reading.cleaned)
        ]
        return drawing.side_by_side(pair, GAP)
    film = table[drawing.cut_out(reading.film, part)]
    whole = (part.height, part.width)
    image = Image.fromarray(film).convert("RGB")
    if view.finding is not None:
        heat = reading.explanation.heat[view.finding]
        if view.heat:
            laid = drawing.heat_on_film(heat, *whole, reading.fit, part)
            image = Image.fromarray(
                drawing.blend(film, laid, view.opacity, view.threshold, view.colors))
        if view.boxes:
            found, _ = heatmaps.regions(heat, view.threshold)
            on_film = drawing.boxes_on_film(found, *whole, reading.fit)
            drawing.draw_boxes(image, on_film, drawing.PREDICTED, part=part)
    if view.masks and reading.explanation.mask is not None:
        for structure in np.moveaxis(reading.explanation.mask, -1, 0):
            inside = drawing.mask_on_film(structure, *whole, reading.fit, _grown(part, RIM))
            drawing.draw_outline(image, inside, drawing.OUTLINE, RIM)
    return image


def _grown(part: drawing.Part, by: int) -> drawing.Part:
    return part._replace(left=part.left - by, top=part.top - by, right=part.right + by,
                         bottom=part.bottom + by)


def title(reading: Reading, view: View, network: Network) -> str:
    """What the picture shows: the finding, its probability and what is decided, else the film's
    name."""
    if view.before_after:
        return f"Before and after removing bright artefacts   {reading.removed:.1%} of pixels"
    if view.finding is None:
        return reading.path.name
    own = next(f for f in looking.findings(reading, network) if f.number == view.finding)
    return "   ".join(filter(None, [own.label, f"{own.probability:.1%}", own.decision]))


def legend(reading: Reading, view: View) -> list[tuple[str, str]]:
    """(colour, meaning) of what is drawn on the film; '' is a word without a colour."""
    if view.before_after:
        return []
    entries = []
    if view.finding is not None:
        if reading.explanation.heat[view.finding].max() <= 0:
            entries.append(("", "nothing on this film speaks for it"))
        elif view.boxes:
            entries.append((drawing.PREDICTED, f"heat reaches {view.threshold:.0%} of its maximum"))
    return entries


def position(view: View) -> str:
    """Zoom and gray window in words; '' where the whole film is shown in all its grays."""
    words = [f"zoom {view.zoom:.1f}"] if view.zoom > 1 else []
    if (view.level, view.window) != (GRAY / 2, GRAY):
        words.append(f"window {view.window:.0f}, level {view.level:.0f}")
    return "   ".join(words)


def hot(reading: Reading, view: View) -> bool:
    """Whether there are colours of heat on the picture, so that their scale belongs beside it."""
    return (view.heat and not view.before_after and view.finding is not None
            and float(reading.explanation.heat[view.finding].max()) > 0)


def picture(reading: Reading, view: View, network: Network, name: str = "") -> Image.Image:
    """The picture to be kept: at the film's own size (800 pixels at least), under a caption.

    Args:
      name: of the film; by default its file's.
    """
    side = max(800, max(reading.film.shape))
    width = 2 * side + GAP if view.before_after else side
    image = render(reading, view, width, side)
    shown = heatmaps.METHODS[reading.method] if view.finding is not None else "no heat map"
    lines = [f"{name or reading.path.name}   {network.name}, {shown}", network.purpose]
    return drawing.captioned(image, title(reading, view, network), lines, 20)


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
