"""How good predictions are: plain NumPy on the host, after all films have been predicted.

Conventions. Labels are 0, 1 or NaN (unknown: left out of that label only). Scores may be on any
scale where only their order counts, and are probabilities where it says so. A figure that the
films do not define (a label with one class only) is NaN; `mean_counted` averages the others and
says how many they were. NaN among the scores is an error, not a number.

scipy.stats and scikit-learn take half a second to import, and are where they are used.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Real
from scipy.special import expit, softmax

from cxrjax.metrics._common import _columns


def probabilities(logits: Float[np.ndarray, "n k"], task: str) -> Float[np.ndarray, "n k"]:
    """Sigmoids of multi-label logits, the softmax of one-of-N logits; float64."""
    logits = logits.astype(np.float64)
    return expit(logits) if task == "multilabel" else softmax(logits, axis=-1)




def auroc(labels: Real[np.ndarray, "n k"], scores: Real[np.ndarray, "n k"]) -> np.ndarray:
    """Area under the ROC curve of each label, f64[K]; ties count one half.

    The Mann-Whitney form: the share of (positive, negative) pairs that are in the right order.
    NaN where a label has no positive or no negative film.
    """
    from scipy import stats

    result = np.full(labels.shape[1], np.nan)
    for k, (y, s) in enumerate(_columns(labels, scores)):
        positives = int(y.sum())
        negatives = len(y) - positives
        if positives and negatives:
            ranks = stats.rankdata(s)[y].sum() - positives * (positives + 1) / 2
            result[k] = ranks / (positives * negatives)
    return result


def average_precision(
    labels: Real[np.ndarray, "n k"], scores: Real[np.ndarray, "n k"]
) -> np.ndarray:
    """Average precision of each label, f64[K]: sum of precision times step in recall.

    Not interpolated (scikit-learn's definition). NaN where a label has no positive film.
    """
    from sklearn import metrics as sk

    return np.array(
        [
            sk.average_precision_score(y, s) if y.any() else np.nan
            for y, s in _columns(labels, scores)
        ]
    )


def roc_curve(
    labels: Real[np.ndarray, " n"], scores: Real[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rate, true positive rate and threshold at each corner, from (0, 0) to (1, 1).

    Empty arrays where the label has one class only.
    """
    ((y, s),) = _columns(labels[:, None], scores[:, None])
    if y.all() or not y.any():
        return np.empty(0), np.empty(0), np.empty(0)
    from sklearn import metrics as sk

    return sk.roc_curve(y, s)


def precision_recall_curve(
    labels: Real[np.ndarray, " n"], scores: Real[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and threshold (one fewer), by rising threshold, ending at (1, 0).

    Empty arrays where the label has no positive film.
    """
    ((y, s),) = _columns(labels[:, None], scores[:, None])
    if not y.any():
        return np.empty(0), np.empty(0), np.empty(0)
    from sklearn import metrics as sk

    return sk.precision_recall_curve(y, s)
