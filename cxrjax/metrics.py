"""How good predictions are: plain NumPy on the host, after all films have been predicted.

Conventions. Labels are 0, 1 or NaN (unknown: left out of that label only). Scores may be on any
scale where only their order counts, and are probabilities where it says so. A figure that the
films do not define (a label with one class only) is NaN; `mean_counted` averages the others and
says how many they were. NaN among the scores is an error, not a number.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer, Real
from numpy.typing import ArrayLike
from scipy import ndimage, stats
from sklearn import metrics as sk

from cxrjax import names
from cxrjax.errors import UserError

Masks = Bool[np.ndarray, "n h w m"] | Real[np.ndarray, "n h w m"]
_HOW = ("youden", "f1")

# --- several labels per film


def auroc(labels: Real[np.ndarray, "n k"], scores: Real[np.ndarray, "n k"]) -> np.ndarray:
    """Area under the ROC curve of each label, f64[K]; ties count one half.

    The Mann-Whitney form: the share of (positive, negative) pairs that are in the right order.
    NaN where a label has no positive or no negative film.
    """
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
    return np.array(
        [
            sk.average_precision_score(y, s) if y.any() else np.nan
            for y, s in _columns(labels, scores)
        ]
    )


def mean_counted(values: Real[np.ndarray, "*s"]) -> tuple[float, int]:
    """The mean of the values that are not NaN, and how many they are; (nan, 0) if there is none."""
    counted = ~np.isnan(values)
    return (float(values[counted].mean()) if counted.any() else float("nan")), int(counted.sum())


def choose_thresholds(
    labels: Real[np.ndarray, "n k"], scores: Real[np.ndarray, "n k"], how: str = "youden"
) -> np.ndarray:
    """A threshold for each label, f64[K], to be chosen on validation and kept for the test.

    A film is called positive if its score >= the threshold. Thresholds are scores that occur;
    among equally good ones the highest is taken. NaN where a label has one class only.

    Args:
      how: 'youden' maximises sensitivity + specificity - 1 (Youden 1950), 'f1' the F1 score.

    Raises:
      UserError: unknown `how`, NaN among the scores.
    """
    if how not in _HOW:
        raise UserError(f"unknown way {how!r} to choose thresholds" + names.suggest(how, _HOW))
    result = np.full(labels.shape[1], np.nan)
    for k, (y, s) in enumerate(_columns(labels, scores)):
        if y.all() or not y.any():
            continue
        order = np.argsort(-s, kind="stable")
        y, s = y[order], s[order]
        last = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)  # last film of each score
        hits, called = np.cumsum(y)[last], last + 1
        if how == "f1":
            value = 2 * hits / (called + y.sum())
        else:
            # Times positives and negatives: whole numbers, so that ties are ties.
            value = hits * (~y).sum() - (called - hits) * y.sum()
        result[k] = s[last[np.argmax(value)]]
    return result


def at_thresholds(
    labels: Real[np.ndarray, "n k"],
    scores: Real[np.ndarray, "n k"],
    thresholds: Real[np.ndarray, "k"],
) -> dict[str, np.ndarray]:
    """What calling a film positive at score >= threshold gives, for each label.

    Returns f64[K] each: 'sensitivity' (recall), 'specificity', 'precision', 'f1', and the counts
    'films' (with a known label), 'positives', 'called'. NaN where the denominator is 0 (precision:
    nothing was called positive), the threshold is NaN, or (F1) no film is positive.
    """
    columns = list(_columns(labels, scores))
    rows = []
    for (y, s), threshold in zip(columns, thresholds):
        called = s >= threshold
        tp, fp, fn = (called & y).sum(), (called & ~y).sum(), (~called & y).sum()
        tn = len(y) - tp - fp - fn
        if np.isnan(threshold):
            rows.append([np.nan] * 4 + [len(y), y.sum(), np.nan])
            continue
        # Without positives F1 would be 0 or undefined by whether anything was called: no figure.
        f1 = (2 * tp, 2 * tp + fp + fn if y.any() else 0)
        ratios = [(tp, tp + fn), (tn, tn + fp), (tp, tp + fp), f1]
        rows.append([a / b if b else np.nan for a, b in ratios] + [len(y), y.sum(), called.sum()])
    keys = ("sensitivity", "specificity", "precision", "f1", "films", "positives", "called")
    return dict(zip(keys, np.array(rows, float).reshape(-1, len(keys)).T))


def roc_curve(
    labels: Real[np.ndarray, "n"], scores: Real[np.ndarray, "n"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rate, true positive rate and threshold at each corner, from (0, 0) to (1, 1).

    Empty arrays where the label has one class only.
    """
    ((y, s),) = _columns(labels[:, None], scores[:, None])
    if y.all() or not y.any():
        return np.empty(0), np.empty(0), np.empty(0)
    return sk.roc_curve(y, s)


def precision_recall_curve(
    labels: Real[np.ndarray, "n"], scores: Real[np.ndarray, "n"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and threshold (one fewer), by rising threshold, ending at (1, 0).

    Empty arrays where the label has no positive film.
    """
    ((y, s),) = _columns(labels[:, None], scores[:, None])
    if not y.any():
        return np.empty(0), np.empty(0), np.empty(0)
    return sk.precision_recall_curve(y, s)


def brier(labels: Real[np.ndarray, "n k"], probs: Real[np.ndarray, "n k"]) -> np.ndarray:
    """Brier score of each label, f64[K]: mean squared error of the probability (Brier 1950).

    For one label of N, Brier's original score is the sum over the labels.
    """
    _check_probabilities(probs)
    return np.array(
        [np.mean((s - y) ** 2) if len(y) else np.nan for y, s in _columns(labels, probs)]
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
    for k, (y, p) in enumerate(_columns(labels, probs)):
        if len(y):
            index = np.minimum((p * bins).astype(int), bins - 1)
            gaps = np.bincount(index, weights=y - p, minlength=bins)
            result[k] = np.abs(gaps).sum() / len(y)
    return result


# --- one label of N


def multiclass(
    labels: Real[np.ndarray, "n k"], probs: Real[np.ndarray, "n k"]
) -> dict[str, float | np.ndarray]:
    """Scores for one label of N: labels one-hot, the highest probability is the answer.

    Returns 'accuracy', 'macro_precision', 'macro_recall', 'macro_f1' (see `confusion_scores`),
    'macro_auroc' (mean of one against the rest), 'classes' (how many have films), 'films',
    'confusion' i64[K, K] (truth by answer), 'brier' (sum over the classes) and
    'calibration_error' (of the answer's probability). Films with a NaN label are left out.
    """
    labels, probs = one_of_n(labels, probs)
    truth, answer = labels.argmax(axis=1), probs.argmax(axis=1)
    matrix = confusion_matrix(truth, answer, labels.shape[1])
    right, confidence = (truth == answer)[:, None].astype(float), probs.max(axis=1)[:, None]
    return {
        **{key: float(value) for key, value in confusion_scores(matrix).items()},
        "macro_auroc": mean_counted(auroc(labels, probs))[0],
        "classes": int((matrix.sum(axis=1) > 0).sum()),
        "films": len(truth),
        "confusion": matrix,
        "brier": float(brier(labels, probs).sum()),
        "calibration_error": float(calibration_error(right, confidence)[0]),
    }


def one_of_n(
    labels: Real[np.ndarray, "n k"], probs: Real[np.ndarray, "n k"]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the films whose label is known.

    Raises:
      UserError: a film with no label or several.
    """
    known = ~np.isnan(labels).any(axis=1)
    labels, probs = labels[known], probs[known]
    if np.any((labels == 1).sum(axis=1) != 1) or np.any((labels != 0).sum(axis=1) != 1):
        raise UserError("one label of N: every film needs exactly one label of 1, the others 0")
    return labels, probs


def confusion_matrix(
    truth: Integer[np.ndarray, "n"], answer: Integer[np.ndarray, "n"], classes: int
) -> np.ndarray:
    """i64[classes, classes]: films by truth (row) and answer (column)."""
    return np.bincount(truth * classes + answer, minlength=classes**2).reshape(classes, classes)


def confusion_scores(matrix: Real[np.ndarray, "*s k k"]) -> dict[str, np.ndarray]:
    """Accuracy and macro precision, recall and F1 of confusion matrices (truth by answer).

    Macro figures are means over the classes that have films. A class that is never the answer has
    precision 0; macro F1 is the mean of the classes' F1 (not the F1 of the means).
    """
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(float)
    films, called = matrix.sum(axis=-1), matrix.sum(axis=-2)
    there = films > 0
    classes = there.sum(axis=-1)

    def macro(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        ratio = np.divide(top, bottom, out=np.zeros_like(hits), where=there & (bottom > 0))
        return _ratio(ratio.sum(axis=-1), classes)

    return {
        "accuracy": _ratio(hits.sum(axis=-1), films.sum(axis=-1)),
        "macro_precision": macro(hits, called),
        "macro_recall": macro(hits, films),
        "macro_f1": macro(2 * hits, films + called),
    }


def class_scores(matrix: Real[np.ndarray, "k k"]) -> dict[str, np.ndarray]:
    """'precision', 'sensitivity', 'specificity', 'f1' f64[K] of the classes of a confusion matrix.

    The counts are of answers (truth by answer), not of a threshold. A class that is never the
    answer has precision 0; one without films has NaN throughout, but for the specificity.
    """
    hits, films, called = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    there, total = films > 0, matrix.sum()
    precision = np.where(there, np.where(called > 0, hits / np.maximum(called, 1), 0.0), np.nan)
    return {
        "precision": precision,
        "sensitivity": _ratio(hits, films),
        "specificity": _ratio(total - films - called + hits, total - films),
        "f1": np.where(there, _ratio(2 * hits, films + called), np.nan),
    }


# --- masks


def dice(truth: Masks, answer: Masks) -> np.ndarray:
    """Dice coefficient 2 |A.B| / (|A| + |B|) of each film and structure, f64[N, M].

    A pixel belongs to the structure if its value is above 0.5. Both masks empty: 1; one: 0.
    """
    a, b = truth > 0.5, answer > 0.5
    both, total = (a & b).sum(axis=(1, 2)), a.sum(axis=(1, 2)) + b.sum(axis=(1, 2))
    return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)


def iou(truth: Masks, answer: Masks) -> np.ndarray:
    """Intersection over union |A.B| / |A or B|, f64[N, M]; pixels and empty masks as in `dice`."""
    a, b = truth > 0.5, answer > 0.5
    both, either = (a & b).sum(axis=(1, 2)), (a | b).sum(axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def hausdorff95(truth: Masks, answer: Masks) -> np.ndarray:
    """95% Hausdorff distance in pixels of each film and structure, f64[N, M].

    The larger of two 95th percentiles: of the distances from each border pixel of one mask to the
    nearest border pixel of the other, and back (Huttenlocher et al. 1993 with the percentile in
    place of the maximum). Border pixels are those of the mask with one of their four neighbours
    outside it; beyond the film is outside. Both masks empty: 0. One empty: the film's diagonal, so
    that a structure missed altogether spoils the average as it should.
    """
    n, height, width, m = truth.shape
    result = np.zeros((n, m))
    for i in range(n):
        for j in range(m):
            a, b = truth[i, :, :, j] > 0.5, answer[i, :, :, j] > 0.5
            if a.any() and b.any():
                result[i, j] = _surface_distance(a, b)
            elif a.any() or b.any():
                result[i, j] = np.hypot(height, width)
    return result


def _surface_distance(
    a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"], percentile: float = 95.0
) -> float:
    # Every border pixel lies in the box around both: the distance transform need not go further.
    box = ndimage.find_objects((a | b).astype(np.int8))[0]
    edge_a, edge_b = (
        x & ~ndimage.binary_erosion(x) for x in (np.pad(a[box], 1), np.pad(b[box], 1))
    )
    to_b = ndimage.distance_transform_edt(~edge_b)[edge_a]
    to_a = ndimage.distance_transform_edt(~edge_a)[edge_b]
    return float(max(np.percentile(to_b, percentile), np.percentile(to_a, percentile)))


# --- training curves


def convergence_epoch(losses: Sequence[float] | Float[np.ndarray, "e"], share: float = 0.1) -> int:
    """The epoch after which the validation loss hardly ever falls below its best so far.

    Epochs count from 1; an epoch is a record if its loss is below all before it. The answer is the
    first record since which, at every later epoch, at most `share` of the epochs passed were
    records: with a tenth, the next record is at least 10 epochs away, the one after it 20. A
    network that is still learning when it is stopped gets its last record. NaN is no record.

    Raises:
      UserError: no epoch has a loss.
    """
    losses = np.asarray(losses, float)
    best = np.fmin.accumulate(np.concatenate([[np.inf], losses]))
    record = losses < best[:-1]
    if not record.any():
        raise UserError("no convergence epoch: the run has no validation loss")
    for epoch in np.flatnonzero(record):
        later = np.cumsum(record[epoch + 1 :])
        if np.all(later <= share * np.arange(1, len(later) + 1)):
            return int(epoch) + 1
    raise AssertionError("unreachable: the last record has no record after it")


# --- helpers


def _columns(labels: np.ndarray, scores: np.ndarray):
    """For each label the known films: (bool[n], f64[n])."""
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


def _check_probabilities(probs: np.ndarray) -> None:
    if np.any((probs < -1e-6) | (probs > 1 + 1e-6)):  # a softmax in float32 may round above 1
        raise UserError("probabilities must lie between 0 and 1: were logits given?")


def _ratio(top: ArrayLike, bottom: ArrayLike) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(bottom) > 0, np.divide(top, bottom), np.nan)
