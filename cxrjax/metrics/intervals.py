"""Intervals in closed form: of an AUROC, of a proportion, of paired differences, of several seeds.

Films of one patient resemble each other. Every interval here takes the patient of each film and is
widened by the design effect: the variance of the figure over patients divided by the variance that
it would have if each film were a patient of its own (Kish 1965; for the AUROC Obuchowski,
Biometrics 1997).

How `auroc_interval` was chosen: docs/intervals.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Real, Shaped
from scipy import special

FEW = 20  # positives: what rests on fewer is marked
PRIOR = 30  # how many positives the model's variance is worth beside the films' own

Number = float | int


def auroc_interval(
    labels: Real[np.ndarray, " n"] | Bool[np.ndarray, " n"],
    scores: Real[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"] | None = None,
    level: Number = 0.95,
) -> tuple[float, float]:
    """(low, high) of the area under the ROC curve; holds its level from five positives on.

    All areas t that the area a of the films does not contradict (a score interval, as Newcombe's,
    Stat Med 2006):

        |a - t| <= q sqrt(f d V(t))

    V(t) is the variance of an area under two normal distributions of one width, m positives and n
    negatives (the moments of Hanley & McNeil 1982 for the binormal curve),

        V(t) = (t (1 - t) + (m + n - 2) (Q(t) - t^2)) / (m n),   Q(t) = t - 2 T(probit t, 3^-1/2)

    with T Owen's function. f moves it towards the variance that the films themselves show (DeLong
    et al. 1988): f = (k + v r) / (k + v), r = V_DeLong / V(a), v the patients with a positive film
    minus 1 and k = 30; with five positives it is the model that speaks, with 500 the films. d is
    the design effect of the patients, 1 or more. q is the quantile of Student's t with k + v
    degrees of freedom (a moderated variance: Smyth 2004).

    Args:
      labels: 0, 1 or NaN (unknown: left out).
      scores: on any scale; ties count one half.
      patients: of each film; None takes each film for a patient of its own.
      level: of the interval.

    Returns:
      (nan, nan) where there is no positive or no negative film.
    """
    area, parts = _area(labels, scores, patients)
    return mean_auroc_interval([] if parts is None else [(area, parts)], level)


Areas = Sequence[tuple[float, Mapping[str, Any]]]


def areas(
    labels: Real[np.ndarray, "n k"],
    scores: Real[np.ndarray, "n k"],
    patients: Shaped[np.ndarray, " n"] | None = None,
) -> Areas:
    """The area under each ROC curve and what its error is made of, for the two functions below.

    Args:
      labels: 0, 1 or NaN (unknown: left out of that column only).
      scores: on any scale, one for each column.
      patients: of each film; None takes each film for a patient of its own.

    Returns:
      One item for each column that has films of both kinds.
    """
    found = [_area(y, s, patients) for y, s in zip(labels.T, scores.T)]
    return [(area, parts) for area, parts in found if parts is not None]


def mean_auroc_interval(found: Areas, level: Number = 0.95) -> tuple[float, float]:
    """(low, high) of the mean of several areas of the same films.

    All means t that the areas' mean a does not contradict, as in `auroc_interval`:

        |a - t| <= q sqrt(sum_jk r_jk s_j s_k) / K,   s_k^2 = f_k d_k V_k(t)

    r_jk is the correlation of the patients' parts in the errors of areas j and k; f_k moves the
    variance of the model at t towards the one that the films show for area k.

    Args:
      found: `areas` of the films; those of several networks (seeds), one list after the other, have
        the interval of the mean over all.
      level: of the interval.

    Returns:
      (nan, nan) of none.
    """
    if not found:
        return np.nan, np.nan
    mean = float(np.mean([area for area, _ in found]))
    factors, freedom = [], []
    for area, parts in found:
        units = min(parts["positive units"], parts["negative units"]) - 1
        delong, clustered = parts["delong"], parts["clustered"]
        known = 0 < mean < 1 and 0 < area < 1 and np.isfinite(delong)
        ratio = delong / _binormal(mean, parts["m"], parts["n"]) if known else 1.0
        design = max(1.0, clustered / delong) if delong > 0 and clustered > 0 else 1.0
        factors.append(design * (PRIOR + units * ratio) / (PRIOR + units))
        freedom.append(PRIOR + units)
    errors = np.stack([parts["by unit"] for _, parts in found])
    spread = np.sqrt(np.sum(errors**2, axis=1))
    errors = errors / np.where(spread > 0, spread, 1)[:, None]
    together = errors @ errors.T
    np.fill_diagonal(together, 1)  # also of an area without any error to correlate

    def beyond(t: float) -> float:
        one = np.array([_binormal(t, parts["m"], parts["n"]) for _, parts in found]) * factors
        if not one.any():  # at the ends
            return (mean - t) ** 2
        error = np.sqrt(one)
        variance = max(0.0, error @ together @ error) / len(found) ** 2
        q = special.stdtrit(np.sum(one) ** 2 / np.sum(one**2 / freedom), (1 + level) / 2)
        return (mean - t) ** 2 - q * q * variance

    inside = np.clip(mean, 1e-9, 1 - 1e-9)  # at the ends V is 0
    from scipy import optimize  # a fifth of a second to import

    low = optimize.brentq(beyond, 0.0, inside, xtol=1e-12) if mean > 0 else 0.0
    high = optimize.brentq(beyond, inside, 1.0, xtol=1e-12) if mean < 1 else 1.0
    return float(low), float(high)


def _binormal(area: float, m: int, n: int) -> float:
    """Variance of an estimated area under two normal distributions of one width."""
    if not 0 < area < 1:
        return 0.0
    both = area - 2 * special.owens_t(special.ndtri(area), 1 / np.sqrt(3))
    return (area * (1 - area) + (m + n - 2) * (both - area**2)) / (m * n)


def _area(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray | None
) -> tuple[float, dict[str, Any] | None]:
    """The area and what its variance is made of; (nan, None) with one class only.

    'by unit' holds each patient's part in the area's error; their squares add up to the variance.
    """
    labels, scores = np.asarray(labels, float), np.asarray(scores, float)
    known = ~np.isnan(labels)
    if np.isnan(scores[known]).any():
        raise ValueError("NaN among the scores")
    everyone = np.arange(len(labels)) if patients is None else np.asarray(patients)
    units, unit = np.unique(everyone, return_inverse=True)
    y, s, unit = labels[known] == 1, scores[known], unit[known]
    m, n = int(y.sum()), int((~y).sum())
    if not m or not n:
        return np.nan, None

    def share_below(ours: np.ndarray, others: np.ndarray) -> np.ndarray:
        others = np.sort(others)
        both = [np.searchsorted(others, ours, side) for side in ("left", "right")]
        return (both[0] + both[1]) / 2 / len(others)

    of_positive, of_negative = share_below(s[y], s[~y]), 1 - share_below(s[~y], s[y])
    area = float(of_positive.mean())
    a, b = of_positive - area, of_negative - area
    by_positive = np.bincount(unit[y], a, len(units))
    by_negative = np.bincount(unit[~y], b, len(units))
    there = [len(np.unique(u)) for u in (unit[y], unit[~y], unit)]
    large = [k / (k - 1) if k > 1 else np.nan for k in there]
    delong = sum(np.sum(x**2) / (k - 1) / k if k > 1 else np.nan for x, k in ((a, m), (b, n)))
    clustered = (
        large[0] * np.sum(by_positive**2) / m**2 + large[1] * np.sum(by_negative**2) / n**2
        + 2 * large[2] * np.sum(by_positive * by_negative) / (m * n)
    )
    return area, {
        "m": m, "n": n, "positive units": there[0], "negative units": there[1],
        "delong": float(delong), "clustered": float(clustered),
        "by unit": by_positive / m + by_negative / n, "large": large[0],
    }


def proportion_interval(
    hits: Bool[np.ndarray, " n"] | Real[np.ndarray, " n"],
    counted: Bool[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"] | None = None,
    level: Number = 0.95,
) -> tuple[float, float]:
    """(low, high) of a share of films: Wilson's score interval (1927) on the effective number.

    The effective number of films is their number divided by the design effect of the patients
    (1 or more; Korn & Graubard 1998).

    Args:
      hits: which films count as a success.
      counted: the films that the share is of.
      patients: of each film; None takes each film for a patient of its own.
      level: of the interval.
    """
    hit = np.asarray(hits, float)[counted]
    n = len(hit)
    if not n:
        return np.nan, np.nan
    p = hit.mean()
    design = 1.0
    if patients is not None and 0 < p < 1:
        units, unit = np.unique(np.asarray(patients)[counted], return_inverse=True)
        if len(units) > 1:
            sums = np.bincount(unit, hit - p)
            over_units = len(units) / (len(units) - 1) * np.sum(sums**2) / n**2
            design = max(1.0, over_units / (p * (1 - p) / n))
    return wilson(p, n / design, level)


def wilson(share: Number, films: Number, level: Number = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of `films` films, which need not be a whole number."""
    z2 = special.ndtri((1 + level) / 2) ** 2
    middle = (share + z2 / (2 * films)) / (1 + z2 / films)
    half = np.sqrt(z2 * (share * (1 - share) / films + z2 / (4 * films**2))) / (1 + z2 / films)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def ratio_interval(
    a: Number, a_low: Number, a_high: Number, b: Number, b_low: Number, b_high: Number
) -> tuple[float, float]:
    """(low, high) of a / b, of independent figures with intervals (Donner & Zou, Stat Med 2012).

    The variances at the ends are recovered from the figures' own intervals (MOVER). `high` is
    infinite where b may be 0.
    """
    if np.isnan([a, b]).any():
        return np.nan, np.nan

    def root(one: Number, other: Number) -> float:
        less = one * (2 * a - one) * other * (2 * b - other)
        return float(np.sqrt(max(0.0, (a * b) ** 2 - less)))

    below, above = b_high * (2 * b - b_high), b_low * (2 * b - b_low)
    if below:
        low = (a * b - root(a_low, b_high)) / below
    else:  # b_high = 2 b: the limit of the line above
        low = a_low * (2 * a - a_low) / (2 * a * b) if a * b else 0.0
    high = (a * b + root(a_high, b_low)) / above if above > 0 else np.inf
    return max(0.0, float(low)), float(high)


def difference(
    a: Mapping[str, Any], b: Mapping[str, Any]
) -> tuple[float, float, float]:
    """(b - a, low, high) of two figures of different films, from their intervals.

    low = d - sqrt((b - l_b)^2 + (u_a - a)^2), high = d + sqrt((u_b - b)^2 + (a - l_a)^2)
    (Newcombe, Stat Med 1998, method 10; for any two figures Zou & Donner, Stat Med 2008).
    """
    (x, lower, upper), (y, low, high) = (
        [np.nan if f[key] is None else float(f[key]) for key in ("value", "low", "high")]
        for f in (a, b)
    )
    d = y - x
    return (d, d - float(np.hypot(y - low, upper - x)), d + float(np.hypot(high - y, x - lower)))


def paired_auroc(
    labels: Real[np.ndarray, " n"],
    scores: Real[np.ndarray, " n"],
    others: Real[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"] | None = None,
    level: Number = 0.95,
) -> dict[str, float]:
    """{value, low, high, p}: how much larger the area of `scores` is than that of `others`.

    Both are of the same films, so what is hard about a film cancels out: the variance is that of
    the differences of the patients' parts (DeLong et al. 1988; Obuchowski 1997), with Student's t
    for the patients with a positive film. NaN throughout where the films cannot tell.
    """
    return paired_mean_auroc(*([areas(labels[:, None], s[:, None], patients)]
                               for s in (scores, others)), level)


def paired_mean_auroc(
    ours: Sequence[Areas], theirs: Sequence[Areas], level: Number = 0.95
) -> dict[str, float]:
    """{value, low, high, p}: how much larger our mean AUROC is than theirs, on the same films.

    A patient's part in the error of such a difference is that of its areas, added up; the variance
    is that of the parts (`paired_auroc`), with Student's t. The degrees of freedom are
    Satterthwaite's (1946) of the columns, each with its patients that have a positive film. NaN
    throughout where a column has one such patient only: the films cannot tell.

    Args:
      ours: `areas` of each network whose mean is asked for. Several are the seeds of one
        experiment; what differs from seed to seed is not in this interval.
      theirs: likewise, of the same films, labels and patients.
      level: of the interval.
    """
    sides = [ours, theirs]
    if not sides[0][0]:
        return dict.fromkeys(("value", "low", "high", "p"), np.nan)
    means = [np.mean([[area for area, _ in run] for run in side]) for side in sides]
    value = float(means[0] - means[1])
    errors = [np.mean([[parts["by unit"] for _, parts in run] for run in side], axis=0)
              for side in sides]
    freedom = np.array([min(parts["positive units"], parts["negative units"]) - 1
                        for _, parts in sides[0][0]])
    if freedom.min() < 1:
        return {"value": value, "low": np.nan, "high": np.nan, "p": np.nan}
    large = np.sqrt([parts["large"] for _, parts in sides[0][0]])
    errors = large[:, None] * (errors[0] - errors[1])
    variances = np.sum(errors**2, axis=1)
    error = float(np.sqrt(np.sum(errors.mean(axis=0) ** 2)))
    if not error:  # the same answers, or answers that no film could tell apart otherwise
        return {"value": value, "low": value, "high": value, "p": float(value == 0)}
    freedom = np.sum(variances) ** 2 / np.sum(variances**2 / freedom)
    half = special.stdtrit(freedom, (1 + level) / 2) * error
    p = 2 * special.stdtr(freedom, -abs(value) / error)
    return {"value": value, "low": float(value - half), "high": float(value + half), "p": float(p)}


def holm(p: Real[np.ndarray, " n"]) -> np.ndarray:
    """p values corrected for how many there are (Holm 1979); NaN stays NaN and is not counted."""
    p = np.asarray(p, float)
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    times = np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(times * p[order])) if len(order) else []
    return out


def over_seeds(
    values: Sequence[Number], low: Number = np.nan, high: Number = np.nan, level: Number = 0.95
) -> dict[str, float]:
    """{value, least, most, low, high, runs}: a figure of several seeds.

    The interval is about films and seeds at once: the variance of the films, read from the interval
    (low, high) of the runs' mean on these films, and the variance between the seeds divided by
    their number, added. With one run it is the interval that was given.
    """
    v = np.asarray(values, float)
    value, runs = float(v.mean()), len(v)
    out = {"value": value, "least": float(v.min()), "most": float(v.max()), "runs": runs}
    if runs < 2:
        return {**out, "low": float(low), "high": float(high)}
    z = special.ndtri((1 + level) / 2)
    between = v.var(ddof=1) / runs
    films = [abs(end - value) / z for end in (low, high)]
    # Few seeds know their variance badly: Welch & Satterthwaite's degrees of freedom.
    ends = []
    for error in films:
        total = error**2 + between
        freedom = total**2 / (between**2 / (runs - 1)) if between > 0 else np.inf
        ends.append(special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(total))
    return {**out, "low": value - ends[0], "high": value + ends[1]}


def few(figure: Mapping[str, Any]) -> bool:
    """Whether a figure rests on fewer than 20 positives."""
    return figure.get("positives") is not None and figure["positives"] < FEW
