"""Boxes around findings: from pixels in a table to fractions of a film."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cxrjax.data.sets import _columns, _tables
from cxrjax.errors import UserError

Box = tuple[str, str, tuple[float, float, float, float]]  # film, finding, (x0, y0, x1, y1)


def boxes_of(
    table: _tables.Table, name: str, keys: tuple[str, str, str, str],
    sizes: Mapping[str, tuple[int, int]], finding: Callable[[int], str], corners: bool = False,
) -> list[Box]:  # fmt: skip
    """Boxes of a table in pixels, of the films whose sizes are known.

    Args:
      name: column of the films.
      keys: columns of x, y and either width and height or, with `corners`, the other corner.
      sizes: {film: (width, height)}.
      finding: row -> label, '' to pass a row over.
    """
    found = []
    for row, film in enumerate(table.columns[name]):
        cells = [table.columns[key][row] for key in keys]
        if film not in sizes or not any(cells) or not finding(row):
            continue
        x, y, a, b = map(_columns.number, cells)
        x1, y1 = (a, b) if corners else (x + a, y + b)
        width, height = sizes[film]
        box = tuple(float(min(max(v, 0.0), 1.0)) for v in (
            x / width, y / height, x1 / width, y1 / height))  # fmt: skip
        if not (box[0] < box[2] and box[1] < box[3]):
            raise UserError(f"{table.where(row)}: the box {cells} has no area inside the film")
        found.append((film, finding(row), box))
    return found
