"""Figures of decisions: thresholds, confusion matrices, sensitivity, specificity, F1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, Real

from cxrjax import names
from cxrjax.errors import UserError
from cxrjax.metrics._common import known_columns, mean_counted, ratio
from cxrjax.metrics.calibration import brier, calibration_error
from cxrjax.metrics.ranking import auroc

_HOW = ("youden", "f1")  # the ways to choose a threshold
_BOUNDS = ("sensitivity", "specificity")


def parse_rule(how: str) -> tuple[str, float]:
    """'youden', 'f1', 'sensitivity=0.95' or 'specificity=0.9' as (name, bound or nan).

    Raises:
      UserError: another word, or a bound that is not between 0 and 1.
    """
    name, equals, bound = (part.strip() for part in how.partition("="))
    if name in _BOUNDS and equals:
        try:
            value = float(bound)
        except ValueError:
            value = np.nan
        if not 0 < value <= 1:
            raise UserError(f"operating point {how!r}: the {name} must be above 0 and at most 1")
        return name, value
    if how not in _HOW:
        known = [*_HOW, *(f"{bound}=0.9" for bound in _BOUNDS)]
        raise UserError(f"unknown way {how!r} to choose thresholds" + names.suggest(how, known))
    return how, np.nan


def rule_in_words(how: str) -> str:
    """A rule of `choose_thresholds` in words."""
    name, _, bound = how.partition("=")
    if bound:
        return f"{name} of at least {bound}"
    return {"f1": "the highest F1", "youden": "the highest sensitivity + specificity - 1"}[name]


def choose_thresholds(
    labels: Real[np.ndarray, "n k"], scores: Real[np.ndarray, "n k"], how: str = "youden"
) -> np.ndarray:
    """A threshold for each label, f64[K], to be chosen on validation and kept for the test.

    A film is called positive if its score >= the threshold. Thresholds are scores that occur;
    among equally good ones the highest is taken. NaN where a label has one class only, or where no
    score keeps the bound.

    Args:
      how: 'youden' maximises sensitivity + specificity - 1 (Youden 1950), 'f1' the F1 score;
        'sensitivity=0.95' is the highest threshold that finds at least so many of the positives,
        'specificity=0.9' the lowest one that leaves at least so many of the negatives alone.

    Raises:
      UserError: unknown `how`, NaN among the scores.
    """
    rule, bound = parse_rule(how)
    result = np.full(labels.shape[1], np.nan)
    for k, (y, s) in enumerate(known_columns(labels, scores)):
        if y.all() or not y.any():
            continue
        order = np.argsort(-s, kind="stable")
        y, s = y[order], s[order]
        last = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)  # last film of each score
        hits, called = np.cumsum(y)[last], last + 1
        positives, negatives = y.sum(), (~y).sum()
        if rule == "f1":
            value = 2 * hits / (called + positives)
        elif rule == "youden":
            # Times positives and negatives: whole numbers, so that ties are ties.
            value = hits * negatives - (called - hits) * positives
        elif rule == "sensitivity":
            value = hits >= bound * positives - 1e-9  # the first one: the highest threshold
        else:
            left = negatives - (called - hits) >= bound * negatives - 1e-9
            if not left.any():
                continue
            value = np.where(left, called, 0)
        result[k] = s[last[np.argmax(value)]]
    return result


def of_counts(
    tp: Real[np.ndarray, "*s"], fp: Real[np.ndarray, "*s"], fn: Real[np.ndarray, "*s"],
    tn: Real[np.ndarray, "*s"],
) -> dict[str, np.ndarray]:
    """What follows from the four counts of a yes-no answer; any shape; NaN where it is 0 / 0.

    MCC is (tp tn - fp fn) / sqrt((tp + fp) (tp + fn) (tn + fp) (tn + fn)) (Matthews 1975), and 0
    where one of the answers or one of the classes does not occur (as in scikit-learn).
    """
    tp, fp, fn, tn = (np.asarray(x, float) for x in (tp, fp, fn, tn))
    films = tp + fp + fn + tn
    sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    with np.errstate(divide="ignore", invalid="ignore"):
        mcc = np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(product), 0.0)
    return {
        "accuracy": ratio(tp + tn, films), "balanced accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity, "specificity": specificity, "PPV": ratio(tp, tp + fp),
        "NPV": ratio(tn, tn + fn),
        # Without positives F1 would be 0 or undefined by whether anything was called: no figure.
        "F1": np.where(tp + fn > 0, ratio(2 * tp, 2 * tp + fp + fn), np.nan),
        "MCC": np.where(films > 0, mcc, np.nan),
    }


def at_prevalence(
    sensitivity: Real[np.ndarray, "*s"], specificity: Real[np.ndarray, "*s"],
    prevalence: float | int,
) -> tuple[np.ndarray, np.ndarray]:
    """(PPV, NPV) of a test where `prevalence` of the films are positive, by Bayes' theorem."""
    ill, well = prevalence, 1 - prevalence
    hit, false = sensitivity * ill, (1 - specificity) * well
    left, missed = specificity * well, (1 - sensitivity) * ill
    return ratio(hit, hit + false), ratio(left, left + missed)


def net_benefit(
    labels: Real[np.ndarray, " n"], probs: Real[np.ndarray, " n"],
    thresholds: Real[np.ndarray, " t"],
) -> dict[str, np.ndarray]:
    """The decision curve: net benefit f64[T] of acting on a film whose probability >= p_t.

        tp / n - fp / n * p_t / (1 - p_t)              (Vickers & Elkin, Med Decis Making 2006)

    Returns:
      'model', and beside it 'all' (every film is acted on) and 'none' (0).
    """
    ((y, p),) = known_columns(labels[:, None], probs[:, None])
    t = np.asarray(thresholds, float)
    if not len(y):
        return {key: np.full(len(t), np.nan) for key in ("model", "all", "none")}
    odds = t / (1 - t)
    above = [len(x) - np.searchsorted(np.sort(x), t, "left") for x in (p[y], p[~y])]
    share = y.mean()
    return {"model": (above[0] - above[1] * odds) / len(y), "all": share - (1 - share) * odds,
            "none": np.zeros(len(t))}


def at_thresholds(
    labels: Real[np.ndarray, "n k"],
    scores: Real[np.ndarray, "n k"],
    thresholds: Real[np.ndarray, " k"],
) -> dict[str, np.ndarray]:
    """What calling a film positive at score >= threshold gives, for each label.

    Returns f64[K] each: 'sensitivity' (recall), 'specificity', 'precision', 'f1', and the counts
    'films' (with a known label), 'positives', 'called'. NaN where the denominator is 0 (precision:
    nothing was called positive), the threshold is NaN, or (F1) no film is positive.
    """
    columns = list(known_columns(labels, scores))
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
    truth: Integer[np.ndarray, " n"], answer: Integer[np.ndarray, " n"], classes: int
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
        rates = np.divide(top, bottom, out=np.zeros_like(hits), where=there & (bottom > 0))
        return ratio(rates.sum(axis=-1), classes)

    return {
        "accuracy": ratio(hits.sum(axis=-1), films.sum(axis=-1)),
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
        "sensitivity": ratio(hits, films),
        "specificity": ratio(total - films - called + hits, total - films),
        "f1": np.where(there, ratio(2 * hits, films + called), np.nan),
    }
