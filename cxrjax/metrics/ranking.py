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
from scipy.special import expit, logsumexp, softmax

from cxrjax.metrics._common import known_columns


def probabilities(logits: Float[np.ndarray, "n k"], task: str) -> Float[np.ndarray, "n k"]:
    """Sigmoids of multi-label logits, the softmax of one-of-N logits; float64."""
    logits = logits.astype(np.float64)
    return expit(logits) if task == "multilabel" else softmax(logits, axis=-1)


def log_odds(logits: Float[np.ndarray, "n k"], task: str) -> Float[np.ndarray, "n k"]:
    """ln(p / (1 - p)) of `probabilities`, float64: the same order, without ties where p is 1.

    Ranks are made from these: of two films that a network is quite sure of, both may have the
    probability 1.0 and still not the same logit.
    """
    z = logits.astype(np.float64)
    if task == "multilabel":
        return z
    k = z.shape[-1]
    others = np.stack([np.delete(np.arange(k), j) for j in range(k)])
    return z - logsumexp(z[:, others], axis=-1)


def auroc(labels: Real[np.ndarray, "n k"], scores: Real[np.ndarray, "n k"]) -> np.ndarray:
    """Area under the ROC curve of each label, f64[K]; ties count one half.

    The Mann-Whitney form: the share of (positive, negative) pairs that are in the right order.
    NaN where a label has no positive or no negative film.
    """
    from scipy import stats

    result = np.full(labels.shape[1], np.nan)
    for k, (y, s) in enumerate(known_columns(labels, scores)):
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
    from scipy import stats
    from sklearn import metrics as sk

    return np.array(
        [
            sk.average_precision_score(y, stats.rankdata(s)) if y.any() else np.nan
            for y, s in known_columns(labels, scores)
        ]
    )


def roc_curve(
    labels: Real[np.ndarray, " n"], scores: Real[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rate, true positive rate and threshold at each corner, from (0, 0) to (1, 1).

    Empty arrays where the label has one class only.
    """
    ((y, s),) = known_columns(labels[:, None], scores[:, None])
    if y.all() or not y.any():
        return np.empty(0), np.empty(0), np.empty(0)
    from sklearn import metrics as sk

    # By ranks, as scikit-learn refuses infinite scores; the thresholds are the scores again.
    known, rank = np.unique(s, return_inverse=True)
    false, true, at = sk.roc_curve(y, rank)
    return false, true, np.append(np.inf, known[at[1:].astype(int)])


def precision_recall_curve(
    labels: Real[np.ndarray, " n"], scores: Real[np.ndarray, " n"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and threshold (one fewer), by rising threshold, ending at (1, 0).

    Empty arrays where the label has no positive film.
    """
    ((y, s),) = known_columns(labels[:, None], scores[:, None])
    if not y.any():
        return np.empty(0), np.empty(0), np.empty(0)
    from sklearn import metrics as sk

    known, rank = np.unique(s, return_inverse=True)
    precision, recall, at = sk.precision_recall_curve(y, rank)
    return precision, recall, known[at.astype(int)]
