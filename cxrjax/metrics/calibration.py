"""How far probabilities are from frequencies: calibration error and Brier score."""

from __future__ import annotations

import numpy as np
from jaxtyping import Real

from cxrjax.errors import UserError
from cxrjax.metrics._common import known_columns


def brier(labels: Real[np.ndarray, "n k"], probs: Real[np.ndarray, "n k"]) -> np.ndarray:
    """Brier score of each label, f64[K]: mean squared error of the probability (Brier 1950).

    For one label of N, Brier's original score is the sum over the labels.
    """
    _check_probabilities(probs)
    return np.array(
        [np.mean((s - y) ** 2) if len(y) else np.nan for y, s in known_columns(labels, probs)]
    )


def calibration_error(
    labels: Real[np.ndarray, "n k"], probs: Real[np.ndarray, "n k"], bins: int = 15
) -> np.ndarray:
    """Expected calibration error of each label, f64[K], on bins of equal width.

    sum over bins of  films / all films * |share of positives - mean probability|
    (Naeini et al., AAAI 2015; Guo et al., ICML 2017, eq. 3).
    """
    _check_probabilities(probs)
    result = np.full(labels.shape[1], np.nan)
    for k, (y, p) in enumerate(known_columns(labels, probs)):
        if len(y):
            index = np.minimum((p * bins).astype(int), bins - 1)
            gaps = np.bincount(index, weights=y - p, minlength=bins)
            result[k] = np.abs(gaps).sum() / len(y)
    return result


def _check_probabilities(probs: np.ndarray) -> None:
    if np.any((probs < -1e-6) | (probs > 1 + 1e-6)):  # a softmax in float32 may round above 1
        raise UserError("probabilities must lie between 0 and 1: were logits given?")
