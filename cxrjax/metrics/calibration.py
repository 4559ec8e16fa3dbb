"""How far probabilities are from frequencies, and maps that bring them nearer.

A map is fitted on validation logits and applied to logits, so that everything behind it (the
probabilities, what predict and export give) stays as it is. Maps rise strictly: they move no
AUROC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from scipy.special import expit, log_softmax, xlog1py, xlogy

from cxrjax.errors import UserError
from cxrjax.metrics._common import known_columns

BINS = 15
Number = float | int


def brier(labels: Real[np.ndarray, "n k"], probs: Real[np.ndarray, "n k"]) -> np.ndarray:
    """Brier score of each label, f64[K]: mean squared error of the probability (Brier 1950).

    For one label of N, Brier's original score is the sum over the labels.
    """
    _check_probabilities(probs)
    return np.array(
        [np.mean((s - y) ** 2) if len(y) else np.nan for y, s in known_columns(labels, probs)]
    )


def brier_skill(labels: Real[np.ndarray, "n k"], probs: Real[np.ndarray, "n k"]) -> np.ndarray:
    """1 - Brier score / that of calling every film by the prevalence, f64[K]; NaN of one class."""
    reference = np.array([np.mean(y) * (1 - np.mean(y)) if len(y) else np.nan
                          for y, _ in known_columns(labels, probs)])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(reference > 0, 1 - brier(labels, probs) / reference, np.nan)


def bin_of(
    probs: Real[np.ndarray, " n"], bins: int = BINS, mass: bool = False
) -> np.ndarray:
    """The bin i64[N] of each probability: of equal width, or of equal mass (films).

    Of equal mass, films of one probability stay together; bins may then be fewer.
    """
    if not mass:
        return np.clip((probs * bins).astype(int), 0, bins - 1)
    edges = np.quantile(probs, np.arange(1, bins) / bins) if len(probs) else np.empty(0)
    return np.searchsorted(np.unique(edges), probs, side="right")


def calibration_error(
    labels: Real[np.ndarray, "n k"], probs: Real[np.ndarray, "n k"], bins: int = BINS,
    mass: bool = False,
) -> np.ndarray:
    """Expected calibration error of each label, f64[K], on bins of equal width or equal mass.

    sum over bins of  films / all films * |share of positives - mean probability|
    (Naeini et al., AAAI 2015; Guo et al., ICML 2017, eq. 3; of equal mass: Nixon et al. 2019).
    """
    _check_probabilities(probs)
    result = np.full(labels.shape[1], np.nan)
    for k, (y, p) in enumerate(known_columns(labels, probs)):
        if len(y):
            gaps = np.bincount(bin_of(p, bins, mass), weights=y - p)
            result[k] = np.abs(gaps).sum() / len(y)
    return result


def reliability(
    labels: Real[np.ndarray, " n"], probs: Real[np.ndarray, " n"], bins: int = 10,
    mass: bool = True,
) -> dict[str, np.ndarray]:
    """The points of a reliability diagram: one per bin that holds films.

    Returns:
      'probability' (mean) f64[B], 'frequency' (share of positives) f64[B], 'films' and 'positives'
      i64[B].
    """
    _check_probabilities(probs)
    ((y, p),) = known_columns(labels[:, None], probs[:, None])
    index = bin_of(p, bins, mass)
    films = np.bincount(index)
    there = films > 0
    hits, total = (np.bincount(index, w)[there] for w in (y.astype(float), p))
    films = films[there]
    return {"probability": total / films, "frequency": hits / films, "films": films,
            "positives": hits.round().astype(int)}


def slope_and_intercept(
    labels: Real[np.ndarray, " n"], logits: Real[np.ndarray, " n"]
) -> tuple[float, float, float]:
    """(slope, intercept, intercept at slope 1): how logits would have to be moved to fit.

    Maximum likelihood of  logit P(y = 1) = a + b z  (Cox 1958). Slope 1 and intercept 0 is
    calibrated; below 1 the network is too sure of itself. The last one, "calibration in the large",
    is the shift alone. NaN where there is one class only, or where no finite answer is best.
    """
    ((y, z),) = known_columns(labels[:, None], logits[:, None])
    if y.all() or not y.any() or not np.ptp(z):
        return np.nan, np.nan, np.nan
    y = y.astype(float)
    a, b = _newton(y, z, np.array([0.0, 1.0]), np.array([True, True]))
    large, _ = _newton(y, z, np.array([0.0, 1.0]), np.array([True, False]))
    return b, a, large


def _newton(y: np.ndarray, z: np.ndarray, start: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The likeliest (a, b) of logit P = a + b z, by Newton's steps, halved where they overshoot."""
    x = np.stack([np.ones_like(z), z], axis=1)

    def loss(w: np.ndarray) -> float:
        u = x @ w
        return float(np.sum(np.logaddexp(0, u) - y * u))

    w, now = start.copy(), loss(start)
    for _ in range(100):
        p = expit(x @ w)
        gradient = (x.T @ (y - p))[free]
        hessian = ((x * (p * (1 - p))[:, None]).T @ x)[np.ix_(free, free)]
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            return np.full(2, np.nan)
        for _ in range(40):
            tried = w.copy()
            tried[free] += step
            if (new := loss(tried)) <= now:
                break
            step = step / 2
        w, now = tried, new
        if np.abs(w).max() > 1e4:
            return np.full(2, np.nan)
        if np.abs(step).max() < 1e-13 * (1 + np.abs(w).max()):
            return w
    return w if np.abs(gradient).max() < 1e-6 * len(y) else np.full(2, np.nan)


def fit_map(
    labels: Real[np.ndarray, "n k"], logits: Real[np.ndarray, "n k"], task: str, how: str,
    least: int = 1,
) -> dict[str, Any]:
    """A calibration map from validation logits.

    Args:
      labels: of the validation films, NaN = unknown.
      logits: of the network there.
      task: 'multilabel' or 'multiclass'.
      how: 'temperature': all logits are divided by one number (Guo et al., ICML 2017), what makes
        the films likeliest. 'platt': each label's logits become a z + b (Platt 1999, with his
        targets in place of 0 and 1, which keep a and b finite); for 'multilabel'.
      least: positives, and negatives, that Platt scaling of a label needs.

    Returns:
      {'how', 'slope' [K], 'intercept' [K], 'kept' [K], 'why' [K]}. 'kept' says where a label is
      left as it is, 'why' the reason ('' elsewhere): too few films of a kind, logits that run
      against the label (a map that rises cannot mend that), or, of a temperature, answers that are
      right on all films or on none, so that no finite one is best.

    Raises:
      UserError: no such way, or Platt scaling of one label of N.
    """
    k = logits.shape[1]
    logits = np.asarray(logits, float)
    if how == "temperature":
        found = _temperature(labels, logits, task)
        why = "" if found else "no finite temperature is the best one of these films"
        return {"how": how, "slope": [1 / found if found else 1.0] * k, "intercept": [0.0] * k,
                "kept": [not found] * k, "why": [why] * k}
    if how != "platt":
        raise UserError(f"calibration {how!r}: choose temperature or platt")
    if task != "multilabel":
        raise UserError("platt moves each label by itself and so changes the answer of one label "
                        "of N: choose temperature")
    slopes, intercepts, why = [1.0] * k, [0.0] * k, [""] * k
    for j, (y, z) in enumerate(known_columns(labels, logits)):
        positives, negatives = int(y.sum()), int((~y).sum())
        if min(positives, negatives) < least:
            fewer = "positives" if positives <= negatives else "negatives"
            why[j] = f"{min(positives, negatives)} {fewer}, {least} are needed"
            continue
        if not np.ptp(z):
            why[j] = "all films have one logit"
            continue
        target = np.where(y, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        a, b = _newton(target, z, np.array([0.0, 1.0]), np.array([True, True]))
        if b > 0:
            slopes[j], intercepts[j] = float(b), float(a)
        else:
            why[j] = "the logits run against the label"
    return {"how": how, "slope": slopes, "intercept": intercepts,
            "kept": [bool(text) for text in why], "why": why}


def _temperature(labels: np.ndarray, logits: np.ndarray, task: str) -> float | None:
    """The likeliest one; None where it would be 0 or without end.

    The loss is convex in 1 / temperature: it falls from 0 on where the logits know anything, and
    rises again unless every answer is right.
    """
    known = ~np.isnan(labels)
    if task == "multiclass":
        rows = known.all(axis=1)
        z, y = logits[rows], labels[rows]
        margin = np.where(y == 1, z, np.inf).min(1) - np.where(y == 1, -np.inf, z).max(1)
        gain = np.sum(y * (z - z.mean(axis=1, keepdims=True)))
    else:
        z, y = logits[known], labels[known]
        margin = np.where(y == 1, z, -z)
        gain = np.sum((y - 0.5) * z)
    if not len(z) or margin.min() >= 0 or gain <= 0:
        return None

    def loss(log_t: float) -> float:
        scaled = z * np.exp(-log_t)
        if task == "multiclass":
            return -np.sum(y * log_softmax(scaled, axis=1))
        return np.sum(np.logaddexp(0, scaled) - y * scaled)

    from scipy import optimize  # a fifth of a second to import

    best = optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded",
                                    options={"xatol": 1e-10})
    return float(np.exp(best.x)) if abs(best.x) < 3.99 else None


def apply_map(
    logits: Float[np.ndarray, "n k"], chosen: Mapping[str, Any]
) -> Float[np.ndarray, "n k"]:
    """Logits through a map of `fit_map`: slope * z + intercept."""
    slope, intercept = (np.asarray(chosen[key], logits.dtype) for key in ("slope", "intercept"))
    return logits * slope + intercept


def log_loss(labels: Real[np.ndarray, "n k"], probs: Real[np.ndarray, "n k"]) -> np.ndarray:
    """Mean of -(y ln p + (1 - y) ln(1 - p)) of each label, f64[K]."""
    return np.array([-np.mean(xlogy(y, p) + xlog1py(1 - y, -p)) if len(y) else np.nan
                     for y, p in known_columns(labels, probs)])


def _check_probabilities(probs: np.ndarray) -> None:
    if np.any((probs < -1e-6) | (probs > 1 + 1e-6)):  # a softmax in float32 may round above 1
        raise UserError("probabilities must lie between 0 and 1: were logits given?")
