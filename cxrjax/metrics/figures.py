"""Every figure of a judgement as {value, low, high, n, positives, patients, method}.

`n` is the number of films that the figure is of, `positives` how many of the label's films are
positive, `patients` how many patients they are of (None where patients are not known), `method` how
the 95% interval was made:

    AUROC                                     `intervals.auroc_interval`
    accuracy, sensitivity, specificity,       `intervals.proportion_interval`
      PPV, NPV
    AP, F1, MCC, balanced accuracy, Brier     percentiles of the bootstrap over patients
    ECE                                       the same, moved so that its mean is the value: what is
                                              resampled is always worse calibrated than the films
    calibration slope and intercept           a value only
    mean AUROC over the labels                `intervals.mean_auroc_interval`
    other macro means                         percentiles of the mean over the labels
    micro means                               of all answers together; patients as above

All bootstraps of one judgement read the same resamples (`bootstrap.resample`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Real, Shaped
from scipy import special

from cxrjax.metrics import bootstrap, calibration, decisions, intervals, ranking

Figure = dict[str, Any]
BOOTSTRAP, WILSON, AREA = "bootstrap", "Wilson", "moderated score"
SHARES = ("accuracy", "sensitivity", "specificity", "PPV", "NPV")
COUNTED = ("balanced accuracy", "F1", "MCC")
FIT = ("Brier", "Brier skill", "ECE", "ECE equal mass")
MACRO = ("AUROC", "AP", "balanced accuracy", "sensitivity", "specificity", "PPV", "NPV", "F1",
         "MCC", "Brier", "ECE", "ECE equal mass")


def figure(
    value: float | np.floating | np.ndarray, low: float | np.floating | np.ndarray = np.nan,
    high: float | np.floating | np.ndarray = np.nan, *, n: int | np.integer, positives: int | None,
    patients: int | None, method: str,
) -> Figure:
    """One figure with its interval and its counts."""
    return {"value": float(value), "low": float(low), "high": float(high), "n": int(n),
            "positives": positives, "patients": patients, "method": method}


def of_labels(
    labels: Real[np.ndarray, "n k"],
    ranks: Real[np.ndarray, "n k"],
    probs: Float[np.ndarray, "n k"],
    called: Bool[np.ndarray, "n k"],
    decided: Bool[np.ndarray, " k"],
    counts: Float32[np.ndarray, "n r"],
    names: Sequence[str],
    patients: Shaped[np.ndarray, " n"] | None = None,
    level: float = 0.95,
    log_odds: Float[np.ndarray, "n k"] | None = None,
) -> dict[str, Any]:
    """Every figure of yes-no answers to K labels, of their means, with intervals.

    Args:
      labels: 0, 1 or NaN (unknown: left out of that label only).
      ranks: what AUROC and AP order the films by: `ranking.log_odds`.
      probs: probabilities.
      called: which films are called positive.
      decided: the labels that have such an answer (a threshold); the others' are NaN.
      counts: from `bootstrap.resample`, over the same patients.
      names: of the labels.
      patients: of each film; None where they are not known.
      level: of the intervals.
      log_odds: of `probs`, where `ranks` are not, as of calibrated probabilities.

    Returns:
      {'labels': {name: {title: figure}}, 'macro': {title: figure}, 'micro': {title: figure}}. Means
      are over the labels with both kinds of films, those of decisions over the decided ones;
      'resamples' of the mean AUROC is the share of them that could judge all of its labels (the
      intervals of the other means rest on those).
    """
    everyone = np.ones(len(labels), bool)
    log_odds = ranks if log_odds is None else log_odds
    values: dict[str, np.ndarray] = {"AUROC": ranking.auroc(labels, ranks)}
    values["AP"] = ranking.average_precision(labels, ranks)
    samples = {"AUROC": bootstrap.auroc(labels, ranks, counts),
               "AP": bootstrap.average_precision(labels, ranks, counts)}
    fit, drawn, cells = _fit(labels, probs, called, counts)
    values |= fit
    samples |= drawn
    total = [_cells(labels[:, k], called[:, k]) for k in range(len(names))]
    counted = decisions.of_counts(*np.array(total, float).T)
    counted_samples = decisions.of_counts(*np.stack(cells, axis=-1))
    for title in (*SHARES, *COUNTED):
        values[title] = np.where(decided, counted[title], np.nan)
        samples[title] = np.where(decided, counted_samples[title], np.nan)

    judged = ~np.isnan(values["AUROC"])
    out: dict[str, Any] = {"labels": {}, "macro": {}, "micro": {}}
    for k, name in enumerate(names):
        known = ~np.isnan(labels[:, k])
        counts_of = {"n": known.sum(), "positives": int(np.nansum(labels[:, k])),
                     "patients": _units(patients, known)}
        own = out["labels"][name] = {}
        own["AUROC"] = figure(
            values["AUROC"][k],
            *intervals.auroc_interval(labels[:, k], ranks[:, k], patients, level),
            **counts_of, method=AREA,
        )
        own["AP"] = resampled(values["AP"][k], samples["AP"][:, k], counts_of, level)
        own["AP"]["prevalence"] = float(np.nanmean(labels[:, k])) if known.any() else np.nan
        answers = called[:, k] if decided[k] else None
        own.update(
            shares_of_calls(labels[:, k], answers, patients, counts_of["positives"], level)
        )
        for title in COUNTED:
            own[title] = resampled(values[title][k], samples[title][:, k], counts_of, level)
        own |= _fit_of_label(labels, log_odds, values, samples, k, counts_of, level)
    counts_of = {"n": len(labels), "positives": int(np.nansum(labels)),
                 "patients": _units(patients, everyone)}
    for title in MACRO:
        which = judged & (decided if title in SHARES + COUNTED else True)
        found = _mean(values[title], samples[title], which, counts_of, level)
        out["macro"][title] = {**found, "labels": int(np.isfinite(values[title][which]).sum())}
    low, high = intervals.mean_auroc_interval(
        intervals.areas(labels, ranks, patients), level)
    out["macro"]["AUROC"] |= {"low": low, "high": high, "method": AREA}
    means = bootstrap.over_labels(samples["AUROC"], values["AUROC"])
    out["macro"]["AUROC"]["resamples"] = float(np.isfinite(means).mean())
    out["micro"] = _micro(labels, ranks, total, np.stack(cells, axis=-1), decided, counts_of,
                          patients, level)
    return out


def of_probabilities(
    labels: Real[np.ndarray, "n k"],
    log_odds: Real[np.ndarray, "n k"],
    probs: Float[np.ndarray, "n k"],
    counts: Float32[np.ndarray, "n r"],
    names: Sequence[str],
    patients: Shaped[np.ndarray, " n"] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """The figures of `of_labels` that are of how probabilities fit, alone: {'labels', 'macro'}.

    The means are over the labels that have films of both kinds, as there.
    """
    never = np.zeros(labels.shape, bool)  # no decisions are asked for
    values, samples, _ = _fit(labels, probs, never, counts)
    out: dict[str, Any] = {"labels": {}, "macro": {}}
    for k, name in enumerate(names):
        known = ~np.isnan(labels[:, k])
        counts_of = {"n": known.sum(), "positives": int(np.nansum(labels[:, k])),
                     "patients": _units(patients, known)}
        out["labels"][name] = _fit_of_label(labels, log_odds, values, samples, k, counts_of, level)
    both = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    counts_of = {"n": len(labels), "positives": int(np.nansum(labels)),
                 "patients": _units(patients, np.ones(len(labels), bool))}
    for title in (title for title in MACRO if title in FIT):
        out["macro"][title] = _mean(values[title], samples[title], both, counts_of, level)
    return out


def _fit(
    labels: np.ndarray, probs: np.ndarray, called: np.ndarray, counts: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[np.ndarray]]:
    """How probabilities fit: {title of FIT: [k]}, {title: [R, k]} of the resamples, cells [4, R]
    (tp, fp, fn, tn) of each label's resamples by what is called positive."""
    values = dict(zip(FIT, (
        calibration.brier(labels, probs), calibration.brier_skill(labels, probs),
        calibration.calibration_error(labels, probs),
        calibration.calibration_error(labels, probs, mass=True),
    )))
    samples = {title: np.full((counts.shape[1], labels.shape[1]), np.nan) for title in FIT}
    cells = []
    for k in range(labels.shape[1]):
        own = _label_sums(labels[:, k], probs[:, k], called[:, k], counts)
        cells.append(own["cells"])
        for title in FIT:
            samples[title][:, k] = own[title]
    for title in ("ECE", "ECE equal mass"):
        samples[title] = centred(samples[title], values[title])
    return values, samples, cells


def _fit_of_label(
    labels: np.ndarray, log_odds: np.ndarray, values: dict[str, np.ndarray],
    samples: dict[str, np.ndarray], k: int, counts_of: dict[str, Any], level: float,
) -> dict[str, Figure]:
    """The figures of FIT, slope and intercepts of label k."""
    own = {title: resampled(values[title][k], samples[title][:, k], counts_of, level)
           for title in FIT}
    for title, value in zip(
        ("calibration slope", "calibration intercept", "calibration in the large"),
        calibration.slope_and_intercept(labels[:, k], log_odds[:, k]),
    ):
        own[title] = figure(value, **counts_of, method="maximum likelihood")
    return own


def _mean(
    values: np.ndarray, samples: np.ndarray, which: np.ndarray, counts_of: dict[str, Any],
    level: float,
) -> Figure:
    """The mean over the labels `which`, NaN where none of them has the figure."""
    value = np.where(which, values, np.nan)
    mean = np.nanmean(value) if np.isfinite(value).any() else np.nan
    return resampled(mean, bootstrap.over_labels(samples, value), counts_of, level)


def _label_sums(
    labels: np.ndarray, probs: np.ndarray, called: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """{'cells' [4, R] (tp, fp, fn, tn), 'Brier', 'Brier skill', 'ECE', ... [R]} of one label."""
    films = np.flatnonzero(~np.isnan(labels))
    y, p = labels[films], probs[films]
    if not len(films):
        nothing = np.full(counts.shape[1], np.nan)
        return {"cells": np.full((4, counts.shape[1]), np.nan), "Brier": nothing,
                "Brier skill": nothing, "ECE": nothing, "ECE equal mass": nothing}
    # One pass over the resamples: four counts, the squares and the two sets of bins.
    wide, mass = calibration.bin_of(p), calibration.bin_of(p, mass=True)
    cell = np.where(y == 1, np.where(called[films], 0, 2), np.where(called[films], 1, 3))
    starts = np.cumsum([0, 4, 1, wide.max() + 1, mass.max() + 1])
    rows = np.concatenate([cell, np.full(len(films), 4), starts[2] + wide, starts[3] + mass])
    own = np.concatenate([np.ones(len(films)), (p - y) ** 2, y - p, y - p])
    sums = bootstrap._sums(rows, np.tile(films, 4), int(starts[-1]), counts, own)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = sums[:4].sum(axis=0)
        score, share = sums[4] / drawn, (sums[0] + sums[2]) / drawn
        return {
            "cells": sums[:4], "Brier": score,
            "Brier skill": np.where(share * (1 - share) > 0, 1 - score / (share * (1 - share)),
                                    np.nan),
            "ECE": np.abs(sums[starts[2] : starts[3]]).sum(axis=0) / drawn,
            "ECE equal mass": np.abs(sums[starts[3] :]).sum(axis=0) / drawn,
        }


def _cells(labels: np.ndarray, called: np.ndarray) -> tuple[int, int, int, int]:
    y, n = labels == 1, labels == 0
    return (int((y & called).sum()), int((n & called).sum()), int((y & ~called).sum()),
            int((n & ~called).sum()))


def shares_of_calls(
    labels: Real[np.ndarray, " n"], called: Bool[np.ndarray, " n"] | None,
    patients: Shaped[np.ndarray, " n"] | None, positives: int, level: float = 0.95,
) -> dict[str, Figure]:
    """The figures of one label that are shares of films, each of its own films.

    Args:
      labels: 0, 1 or NaN.
      called: which films are called positive; None where there is no such answer.
      patients: of each film.
      positives: of the label.
      level: of the intervals.
    """
    known = ~np.isnan(labels)
    y = labels == 1
    if called is None:
        return {title: figure(np.nan, n=0, positives=positives, patients=None, method=WILSON)
                for title in SHARES}
    parts = {
        "accuracy": (y == called, known), "sensitivity": (called, y),
        "specificity": (~called, known & ~y), "PPV": (y, known & called),
        "NPV": (~y, known & ~called),
    }
    return {title: share(hits, of, patients, positives, level)
            for title, (hits, of) in parts.items()}


def share(
    hits: Bool[np.ndarray, " n"], of: Bool[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"] | None, positives: int | None, level: float = 0.95,
) -> Figure:
    """Which part of the films `of` are `hits`, with Wilson's interval."""
    value = hits[of].mean() if of.any() else np.nan
    return figure(value, *intervals.proportion_interval(hits, of, patients, level), n=of.sum(),
                  positives=positives, patients=_units(patients, of), method=WILSON)


def at_prevalence(
    sensitivity: Figure, specificity: Figure, prevalence: float | int
) -> dict[str, Figure]:
    """PPV and NPV where another share of the films is positive, from the two figures.

    Their odds are a likelihood ratio times the odds of the prevalence, and the interval is that of
    the ratio (`intervals.ratio_interval`).
    """
    se, sp = ([f[key] for key in ("value", "low", "high")] for f in (sensitivity, specificity))
    missed, false = ([1 - f[0], 1 - f[2], 1 - f[1]] for f in (se, sp))
    ppv, npv = decisions.at_prevalence(np.array(se[0]), np.array(sp[0]), prevalence)
    odds = prevalence / (1 - prevalence)
    out = {}
    for title, value, top, bottom, prior in (
        ("PPV at prevalence", ppv, se, false, odds),
        ("NPV at prevalence", npv, sp, missed, 1 / odds),
    ):
        ends = np.array(intervals.ratio_interval(*top, *bottom)) * prior
        low, high = (float(e / (1 + e)) if np.isfinite(e) else (1.0 if e > 0 else np.nan)
                     for e in ends)
        patients = [f["patients"] for f in (sensitivity, specificity)]
        out[title] = figure(
            value, low, high, n=sensitivity["n"] + specificity["n"],
            positives=sensitivity["positives"],
            patients=None if None in patients else max(patients), method="ratio of Wilson's",
        )
    return out


def calibration_error(
    right: Real[np.ndarray, " n"], confidence: Float[np.ndarray, " n"],
    counts: Float32[np.ndarray, "n r"], patients: Shaped[np.ndarray, " n"] | None = None,
    level: float = 0.95,
) -> Figure:
    """ECE of the answers to one-of-N: how often they are right (1, 0, NaN) and how sure."""
    known = ~np.isnan(right)
    value = calibration.calibration_error(right[:, None], confidence[:, None])
    drawn = _label_sums(right, confidence, known, counts)["ECE"][:, None]
    counts_of = {"n": known.sum(), "positives": None, "patients": _units(patients, known)}
    return resampled(value[0], centred(drawn, value)[:, 0], counts_of, level)


def _micro(
    labels: np.ndarray, ranks: np.ndarray, total: Sequence, cells: np.ndarray,
    decided: np.ndarray, counts_of: dict[str, Any], patients: np.ndarray | None, level: float,
) -> dict[str, Figure]:
    """Figures of all answers together, each film once for each label."""
    out = {}
    films = np.repeat(np.arange(len(labels)), labels.shape[1])
    unit = films if patients is None else np.asarray(patients)[films]
    area = ranking.auroc(labels.reshape(-1, 1), ranks.reshape(-1, 1))[0]
    out["AUROC"] = figure(
        area, *intervals.auroc_interval(labels.ravel(), ranks.ravel(), unit, level),
        **counts_of, method=AREA,
    )
    if decided.any():
        value = decisions.of_counts(*np.array(total, float)[decided].sum(axis=0)[:, None])
        drawn = decisions.of_counts(*np.nansum(cells[..., decided], axis=-1))
        for title in (*SHARES, *COUNTED):
            out[title] = resampled(value[title][0], drawn[title], counts_of, level)
    return out


def resampled(
    value: float | np.ndarray, samples: np.ndarray, counts_of: dict[str, Any], level: float = 0.95
) -> Figure:
    """A figure with the percentiles of its bootstrap; `counts_of`: n, positives, patients."""
    low, high = bootstrap.interval(samples, level)
    if np.isnan(value):
        low = high = np.nan
    return figure(value, low, high, **counts_of, method=BOOTSTRAP)


def centred(
    samples: Real[np.ndarray, " r *s"], value: Real[np.ndarray, "*s"]
) -> Real[np.ndarray, " r *s"]:
    """Samples moved so that their mean is the value, and none below 0."""
    return np.maximum(samples - samples.mean(axis=0) + value, 0.0)


def of_films(
    values: Real[np.ndarray, " n"], counts: Float32[np.ndarray, "n r"],
    patients: Shaped[np.ndarray, " n"] | None = None, level: float = 0.95,
) -> Figure:
    """The mean of what each film has (its Dice, its HD95); NaN = the film has none."""
    known = ~np.isnan(values)
    counts_of = {"n": known.sum(), "positives": None, "patients": _units(patients, known)}
    value = values[known].mean() if known.any() else np.nan
    return resampled(value, bootstrap.mean(values, counts), counts_of, level)


def _units(patients: np.ndarray | None, which: np.ndarray) -> int | None:
    return None if patients is None else len(np.unique(np.asarray(patients)[which]))


def p_value(samples: Real[np.ndarray, " r"], value: float) -> float:
    """p of a difference from its paired bootstrap: 2 Phi(-|difference| / SD of the resamples).

    Counting the resamples beyond 0 would give no p below 2 / (resamples + 1), and Holm's correction
    for many differences none below .05. NaN where the resamples do not spread.
    """
    known = samples[~np.isnan(samples)]
    if len(known) < 2 or np.isnan(value):
        return float("nan")
    spread = known.std(ddof=1)
    if spread == 0:  # the same answers, or the same difference in every resample
        return 1.0 if value == 0 else float("nan")
    return float(2 * special.ndtr(-abs(value) / spread))
