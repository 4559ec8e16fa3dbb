"""What the figures share: columns without unknown labels, ratios of nothing, counted means."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Real
from numpy.typing import ArrayLike

from cxrjax.errors import UserError


def mean_counted(values: Real[np.ndarray, "*s"]) -> tuple[float, int]:
    """The mean of the values that are not NaN, and how many they are; (nan, 0) if there is none."""
    counted = ~np.isnan(values)
    return (float(values[counted].mean()) if counted.any() else float("nan")), int(counted.sum())


def known_columns(
    labels: np.ndarray, scores: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each label its known films: (whether positive bool[n], scores f64[n]).

    Raises:
      UserError: NaN among the scores, or labels other than 0, 1 and NaN.
    """
    scores = np.asarray(scores, float)
    if np.isnan(scores).any():
        films = int(np.isnan(scores).any(axis=1).sum())
        raise UserError(
            f"the scores of {films} of {len(scores)} films are NaN: did training diverge?"
        )
    for y, s in zip(np.asarray(labels, float).T, scores.T):
        known = ~np.isnan(y)
        y = y[known]
        if not np.isin(y, (0, 1)).all():
            raise UserError("labels must be 0, 1 or NaN (unknown)")
        yield y == 1, s[known]


def ratio(top: ArrayLike, bottom: ArrayLike) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(bottom) > 0, np.divide(top, bottom), np.nan)
