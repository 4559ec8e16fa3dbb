"""How far a figure may be off: bootstrap intervals over films or over patients.

`resample` draws, for all resamples at once, how often each film occurs; the statistics here are
computed from those counts, so that a thousand resamples of a large test set take seconds. Two runs
on the same films are compared by computing both from the SAME counts and taking the interval of
the difference (paired bootstrap): what is hard about a film is hard for both and cancels out.

    counts = bootstrap.resample(len(labels), 1000, seed=0, cluster=patient)
    low, high = bootstrap.interval(bootstrap.auroc(labels, scores, counts))
    low, high = bootstrap.difference(bootstrap.auroc(labels, scores, counts),
                                     bootstrap.auroc(labels, others, counts))
"""

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Real, Shaped
from scipy import sparse

_TOGETHER = 250  # resamples that are worked on at once: of 1,000 of them it would be half a GB


def resample(
    films: int, resamples: int = 1000, *, seed: int, cluster: Shaped[np.ndarray, " n"] | None = None
) -> Float32[np.ndarray, "n r"]:
    """How often each of `films` films occurs in each resample: f32[films, resamples].

    Args:
      seed: explicit, so that a report can be made again; use the same for runs to be compared.
      cluster: the patient of each film. Patients are then drawn with all their films, which is
        right where films of one patient resemble each other (intervals get wider). None draws
        films.
    """
    rng = np.random.default_rng(seed)
    if cluster is None:
        units, member = films, None
    else:
        if len(cluster) != films:
            raise ValueError(f"{films} films but the patients of {len(cluster)}")
        patients, member = np.unique(cluster, return_inverse=True)
        units = len(patients)
    drawn = np.empty((resamples, units), np.float32)
    for row in drawn:
        row[:] = np.bincount(rng.integers(0, units, units), minlength=units)
    # Film by film in memory, which is how the statistics walk through them.
    return np.ascontiguousarray(drawn.T) if member is None else drawn.T[member]


def auroc(
    labels: Real[np.ndarray, "n k"],
    scores: Real[np.ndarray, "n k"],
    counts: Float32[np.ndarray, "n r"],
) -> Real[np.ndarray, "r k"]:
    """`metrics.auroc` of every resample; NaN where it drew one class only."""

    def area(tp: np.ndarray, fp_at: np.ndarray, fp_below: np.ndarray) -> np.ndarray:
        negatives = fp_below[-1]
        right = np.sum(tp * (fp_below[:-1] + fp_at / 2), axis=0)
        return right / (tp.sum(axis=0) * negatives)

    return _by_rank(area, labels, scores, counts)


def average_precision(
    labels: Real[np.ndarray, "n k"],
    scores: Real[np.ndarray, "n k"],
    counts: Float32[np.ndarray, "n r"],
) -> Real[np.ndarray, "r k"]:
    """`metrics.average_precision` of every resample; NaN where it drew no positive film."""

    def precision(tp: np.ndarray, fp_at: np.ndarray, fp_below: np.ndarray) -> np.ndarray:
        hits = np.cumsum(tp[::-1], axis=0)[::-1]  # positives with this score or a higher one
        called = hits + fp_below[-1] - fp_below[:-1]
        return np.sum(tp * hits / np.maximum(called, 1), axis=0) / hits[0]

    return _by_rank(precision, labels, scores, counts)


def confusion(
    labels: Real[np.ndarray, "n k"],
    probs: Real[np.ndarray, "n k"],
    counts: Float32[np.ndarray, "n r"],
) -> Real[np.ndarray, "r k k"]:
    """The confusion matrix (truth by answer) of every resample, for one label of N.

    `metrics.confusion_scores` takes all of them at once. Films with a NaN label are left out.
    """
    known = ~np.isnan(labels).any(axis=1)
    classes = labels.shape[1]
    cell = labels[known].argmax(axis=1) * classes + probs[known].argmax(axis=1)
    films = np.flatnonzero(known)
    sums = _sums(cell, films, classes**2, counts)
    return sums.T.reshape(-1, classes, classes)


def mean(
    values: Real[np.ndarray, " n"], counts: Float32[np.ndarray, "n r"]
) -> Real[np.ndarray, " r"]:
    """The mean of a figure that each film has (its Dice, say) in every resample; NaN left out."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (values[known] @ counts[known].astype(float)) / counts[known].sum(axis=0)


def over_labels(
    samples: Real[np.ndarray, "r k"], value: Real[np.ndarray, " k"]
) -> Real[np.ndarray, " r"]:
    """The mean over the labels in every resample, over the same labels each time.

    Those are the labels whose `value` on all films is known. A resample that cannot judge one of
    them (of a rare finding it may have drawn no film) is NaN and so left out: a mean over the
    others would be another figure.
    """
    known = ~np.isnan(value)
    if not known.any():
        return np.full(len(samples), np.nan)
    return samples[:, known].mean(axis=1)


def interval(
    samples: Real[np.ndarray, " r *s"], level: float = 0.95
) -> tuple[Real[np.ndarray, "*s"], Real[np.ndarray, "*s"]]:
    """(low, high): the percentile interval; resamples in which the figure is NaN are left out."""
    tail = 100 * (1 - level) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN: the interval is NaN
        low, high = np.nanpercentile(samples, [tail, 100 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def difference(
    a: Real[np.ndarray, " r *s"], b: Real[np.ndarray, " r *s"], level: float = 0.95
) -> tuple[Real[np.ndarray, "*s"], Real[np.ndarray, "*s"]]:
    """(low, high) of a - b, both made from the same counts. An interval without 0 is a difference.

    For the mean over the labels give `over_labels` of each.
    """
    return interval(a - b, level)


def _by_rank(
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    labels: np.ndarray,
    scores: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """Apply a statistic of the ranking to every label and resample.

    Only scores at which a positive film stands (G of them, rising) can change it, so the films are
    summed into the segments between those: `function(tp, fp_at, fp_below)` gets, by resample, the
    positives at each such score f64[G, R], the negatives at it f64[G, R] and those below it
    f64[G + 1, R] (last row: all negatives).
    """
    result = np.full((counts.shape[1], labels.shape[1]), np.nan)
    if np.isnan(scores).any():
        raise ValueError("NaN among the scores")
    labelled = []
    for k in range(labels.shape[1]):
        films = np.flatnonzero(~np.isnan(labels[:, k]))
        films = films[np.argsort(scores[films, k], kind="stable")]
        positive, score = labels[films, k] == 1, scores[films, k]
        if not positive.any():
            continue
        group = np.cumsum(np.append(False, np.diff(score) != 0))  # equal scores: one group
        holds_positive = np.bincount(group, weights=positive) > 0
        seen = np.cumsum(holds_positive)  # groups with a positive film, up to this one
        total = int(seen[-1])
        at = holds_positive[group]
        segment = np.where(at, seen[group] - 1, 2 * total + seen[group])
        labelled.append((k, np.where(at & ~positive, segment + total, segment), films, total))
    # What is summed up holds the films of a frequent label times the resamples: some at a time.
    resamples = np.arange(counts.shape[1])
    for some in np.array_split(resamples, max(1, -(-len(resamples) // _TOGETHER))):
        own = np.ascontiguousarray(counts[:, some[0] : some[-1] + 1])
        for k, segment, films, total in labelled:
            sums = _sums(segment, films, 3 * total + 1, own)
            tp, fp_at, fp_between = sums[:total], sums[total : 2 * total], sums[2 * total :]
            fp_below = np.cumsum(fp_between, axis=0)
            fp_below[1:] += np.cumsum(fp_at, axis=0)
            with np.errstate(invalid="ignore", divide="ignore"):
                result[some, k] = function(tp, fp_at, fp_below)
    return result


def _sums(
    row: np.ndarray, films: np.ndarray, rows: int, counts: np.ndarray,
    values: np.ndarray | None = None,
) -> np.ndarray:
    """f64[rows, R]: the counts of `films`, times their `values`, added up by `row`.

    Without values it is exact: f32 holds whole numbers.
    """
    own = np.ones(len(films), np.float32) if values is None else values.astype(np.float32)
    matrix = sparse.csr_matrix((own, (row, films)), shape=(rows, len(counts)))
    return (matrix @ counts).astype(float)
