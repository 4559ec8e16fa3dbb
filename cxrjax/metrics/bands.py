"""ROC and precision-recall curves with bands: between which curves the resampled films lie.

A band is pointwise: at each point of the horizontal axis it holds 95% of the resamples' curves
(vertical averaging: Fawcett, Pattern Recognit Lett 2006). The resamples are those of all other
figures (`bootstrap.resample`).
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float, Float32, Real

from cxrjax.metrics.bootstrap import _sums

GRID = np.linspace(0.0, 1.0, 101)  # where a band is known
THRESHOLDS = 400  # scores at which it is computed, at most

Band = dict[str, np.ndarray]


def bands(
    labels: Real[np.ndarray, " n"], ranks: Real[np.ndarray, " n"],
    counts: Float32[np.ndarray, "n r"], level: float = 0.95,
) -> dict[str, Band] | None:
    """The curves of one label with their bands.

    Args:
      labels: 0, 1 or NaN (left out).
      ranks: what the films are ordered by.
      counts: from `bootstrap.resample`.
      level: of the bands.

    Returns:
      {'roc': {'x', 'y', 'low', 'high', 'samples' [r, 101]}, 'pr': likewise}: sensitivity at each 1
      - specificity, joined by straight lines, and precision at each recall, which is that of the
      highest threshold that reaches it (at recall 0: that of the highest threshold). None where the
      label has one class only. A resample that drew one class only is left out of the ends.
    """
    known = np.flatnonzero(~np.isnan(labels))
    y, s = labels[known] == 1, ranks[known]
    if y.all() or not y.any():
        return None
    # Thresholds as dense where the negatives lie as where the positives do.
    ends = np.linspace(0, 1, THRESHOLDS // 2)
    places = np.unique(np.concatenate([
        np.quantile(own, ends, method="inverted_cdf") if len(own) > len(ends) else own
        for own in (s[y], s[~y])
    ]))
    part = np.searchsorted(places, s, side="right")  # how many thresholds a film reaches
    rows = len(places) + 1
    both = _sums(np.where(y, part, rows + part), known, 2 * rows, counts)
    alone = np.bincount(np.where(y, part, rows + part), minlength=2 * rows)[:, None].astype(float)
    out = {}
    for kind, curve in (("roc", _roc), ("pr", _precision)):
        drawn = curve(*_reached(both, rows))
        low, high = _ends(drawn, level)
        out[kind] = {"x": GRID, "y": curve(*_reached(alone, rows))[0], "low": low, "high": high,
                     "samples": drawn}
    return out


def mean_band(found: list[Band], level: float = 0.95) -> Band:
    """The mean of several labels' curves at each point, and its band; one resampling for all."""
    drawn = np.mean([own["samples"] for own in found], axis=0)
    low, high = _ends(drawn, level)
    return {"x": GRID, "y": np.mean([own["y"] for own in found], axis=0), "low": low,
            "high": high, "samples": drawn}


def _reached(sums: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives [t, r] at each threshold or above it, from none of them to all."""
    return tuple(np.cumsum(own[::-1], axis=0) for own in (sums[:rows], sums[rows:]))


def _roc(hits: np.ndarray, false: np.ndarray) -> Float[np.ndarray, "r 101"]:
    """Sensitivity at each point of the grid; where a curve rises straight up, its upper end."""
    out = np.full((hits.shape[1], len(GRID)), np.nan)
    for i, (tp, fp) in enumerate(zip(hits.T, false.T)):
        if tp[-1] and fp[-1]:
            x, last = np.unique(np.append(0.0, fp / fp[-1])[::-1], return_index=True)
            top = np.append(0.0, tp / tp[-1])[::-1][last]
            out[i] = np.interp(GRID, x, top)
    return out


def _precision(hits: np.ndarray, false: np.ndarray) -> Float[np.ndarray, "r 101"]:
    """Precision at the first threshold whose recall reaches each point of the grid."""
    out = np.full((hits.shape[1], len(GRID)), np.nan)
    for i, (tp, fp) in enumerate(zip(hits.T, false.T)):
        if tp[-1] and fp[-1]:
            called = np.flatnonzero(tp + fp > 0)
            at = np.searchsorted(tp[called] / tp[-1], GRID - 1e-12)
            out[i] = (tp[called] / (tp + fp)[called])[at]
    return out


def _ends(drawn: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    tail = 100 * (1 - level) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no resample has both kinds
        low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=0)
    return low, high
