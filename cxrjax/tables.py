"""Figures as text, in one form everywhere: a number, a Markdown table, JSON without nan."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np


def table(
    titles: Sequence[str], rows: Sequence[Sequence[Any]], right: Collection[int] = ()
) -> list[str]:
    """The lines of a Markdown table.

    Args:
      titles: of the columns.
      rows: their cells, each written by `str`.
      right: the columns that stand at the right, counted from 0.
    """
    below = ["---:" if column in right else "---" for column in range(len(titles))]
    return [f"| {' | '.join(map(str, row))} |" for row in (titles, below, *rows)]


def number(value: float | None) -> str:
    """A figure with four digits; '-' for one that could not be judged."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval, as `number` writes them."""
    return f"{number(low)} to {number(high)}"


def figure(own: Mapping[str, Any] | None) -> str:
    """'0.8123 (0.7901 to 0.8300)': a figure of `metrics.figures` with its interval, if it has one.
    """
    if own is None or own["value"] is None or math.isnan(own["value"]):
        return "-"
    if own["low"] is None or math.isnan(own["low"]):
        return number(own["value"])
    return f"{number(own['value'])} ({interval(own['low'], own['high'])})"


def signed(value: float, low: float, high: float) -> str:
    """'+0.0123 (-0.0020 to +0.0266)': a difference with its interval."""
    if math.isnan(value):
        return "-"
    ends = "" if math.isnan(low) else f" ({low:+.4f} to {high:+.4f})"
    return f"{value:+.4f}{ends}"


def finite(tree: Any) -> Any:
    """JSON has no nan: null stands for a figure that could not be judged."""
    if isinstance(tree, Mapping):
        return {k: finite(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(v) for v in tree]
    if isinstance(tree, np.generic):
        tree = tree.item()
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
