"""The figures of a network on one split; the words are in `report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Shaped

from cxrjax.evaluation.answers import Answers, choose
from cxrjax.metrics import bootstrap, calibration, decisions, figures, ranking, subgroups
from cxrjax.metrics._common import mean_counted
from cxrjax.metrics.ranking import probabilities

# How the figures of `metrics` are called in reports, and by `data/sets/_published.py`.
_MACRO = {
    "accuracy": "accuracy", "macro_precision": "macro precision", "macro_recall": "macro recall",
    "macro_f1": "macro F1", "calibration_error": "ECE", "brier": "Brier",
}
# How a report made its intervals, of films of a {patient}.
INTERVALS = "AUROC in closed form, the others by a bootstrap over {}s, 1,000 resamples"
RULE = "f1"  # how thresholds are chosen where nothing else is asked for
# What 'nothing found' is called where it is a label of its own (lower case, without blanks).
HEALTHY = ("nofinding", "normal", "healthy")


def judge_network(
    labels: Float[np.ndarray, "n k"],
    logits: Float[np.ndarray, "n k"],
    val_labels: Float[np.ndarray, "m k"] | None,
    val_logits: Float[np.ndarray, "m k"] | None,
    names: Sequence[str],
    task: str,
    clusters: np.ndarray | None = None,
    resamples: int = 1000,
    *,
    operating_point: str | None = None,
    prevalence: float | int | None = None,
    groups: Mapping[str, Shaped[np.ndarray, " n"]] | None = None,
    counts: Float32[np.ndarray, "n r"] | None = None,
    answers: Answers | None = None,
    network: str = "",
) -> dict[str, Any]:
    """Every figure of one network on one split.

    Args:
      labels: NaN = unknown; one-hot for one-of-N.
      logits: of the network.
      val_labels: of the validation split, where thresholds are chosen.
      val_logits: of the network there.
      names: of the labels.
      task: 'multilabel' or 'multiclass'.
      clusters: patient (or group of duplicates) of each film: the bootstrap draws these. None
        draws films.
      resamples: of the bootstrap of the 95% intervals.
      operating_point: the rule of `decisions.choose_thresholds`; None: the highest F1.
      prevalence: PPV and NPV are given for this one too.
      groups: of the films, from `subgroups.groups`.
      counts: the resamples, where several share them; None draws them.
      answers: the thresholds of before, and the map of calibrated probabilities, of `network`;
        None: thresholds are chosen on validation here, which is looked at for nothing else.
      network: its name in `answers`.

    Returns:
      'figures': all of them with intervals and counts, as `figures.of_labels` gives them, and for
      one-of-N 'answers', those of the class of the highest probability. 'operating point': the
      rule, and each label's threshold with its figures. 'reliability': {label: points}.
      'subgroups' and 'under-diagnosis' where there are groups. 'confusion' (truth by answer) for
      one-of-N. Of calibrated probabilities also 'before calibration', with 'labels', 'macro',
      'answers' and 'reliability' of the network's own ones. Calibration moves no rank and no
      decision.

      'macro' {figure: value, figure low, figure high} and 'per_label' {label: {figure: value}} are
      the chosen ones that `compare` reads. What the films do not define is nan. Means are over the
      labels that have both kinds of films ('classes judged'); those of decisions (F1, sensitivity,
      specificity of multi-label) over those of them that have a threshold ('classes decided').
    """
    if answers is None:
        answers = choose(Answers(tuple(names), task), operating_point or RULE, val_labels,
                         {network: val_logits})
    raw, ranks = probabilities(logits, task), ranking.log_odds(logits, task)
    calibrated = network in answers.maps
    mapped = answers.logits(network, logits)
    scores = probabilities(mapped, task) if calibrated else raw
    one = decisions.multiclass(labels, raw) if task == "multiclass" else {}
    thresholds = answers.own_thresholds(network)
    at_threshold = np.nan_to_num(raw, nan=-1) >= thresholds
    # As they are shown: on the scale of the probabilities, unless there is none (`thresholds`).
    shown = answers.thresholds(network) or dict(zip(names, thresholds))
    thresholds = np.array([np.nan if t is None else t for t in shown.values()], float)
    # Of one-of-N the class of the highest probability is the answer, and no threshold is used.
    if one:
        called = np.eye(len(names), dtype=bool)[raw.argmax(axis=1)]
        decided = np.ones(len(names), bool)
    else:
        called, decided = at_threshold, ~np.isnan(thresholds)
    if counts is None:
        counts = bootstrap.resample(len(labels), resamples, seed=0, cluster=clusters)
    found = figures.of_labels(
        labels, ranks, scores, called, decided, counts, names, clusters,
        log_odds=ranking.log_odds(mapped, task) if calibrated else None,
    )
    own = found["labels"]
    # Of one-of-N a class that is never the answer has precision 0.
    precision = decisions.class_scores(one["confusion"])["precision"] if one else None
    per_label = {
        name: {
            "AUROC": own[name]["AUROC"]["value"], "AUROC low": own[name]["AUROC"]["low"],
            "AUROC high": own[name]["AUROC"]["high"], "AP": own[name]["AP"]["value"],
            "F1": own[name]["F1"]["value"],
            "precision": own[name]["PPV"]["value"] if precision is None else precision[k],
            "sensitivity": own[name]["sensitivity"]["value"],
            "specificity": own[name]["specificity"]["value"],
            **({} if one else {"threshold": thresholds[k]}),
            "positives": own[name]["AUROC"]["positives"], "films": own[name]["AUROC"]["n"],
        }
        for k, name in enumerate(names)
    }
    areas = np.array([row["AUROC"] for row in per_label.values()])
    macro: dict[str, Any] = {
        **_named("macro AUROC", found["macro"]["AUROC"]),
        "classes judged": mean_counted(areas)[1], "classes": len(names),
        "resamples": found["macro"]["AUROC"]["resamples"],
        **_named("macro AP", found["macro"]["AP"]),
    }
    out: dict[str, Any] = {"macro": macro, "per_label": per_label, "figures": found}
    if one:
        found["answers"] = _answers(labels, raw, scores, called, one, counts, clusters)
        for title in _MACRO.values():
            macro.update(_named(title, found["answers"][title]))
        out["confusion"] = one["confusion"].tolist()
    else:
        macro["classes decided"] = int((~np.isnan(areas) & decided).sum())
        for title in ("F1", "sensitivity", "specificity"):
            macro.update(_named(f"macro {title}", found["macro"][title]))
        for title in ("Brier", "ECE"):
            macro.update(_named(title, found["macro"][title]))
    out["operating point"] = {
        "rule": answers.rule, "chosen": operating_point is not None, "prevalence": prevalence,
        "labels": {
            name: _operating(labels[:, k], at_threshold[:, k], thresholds[k], clusters, prevalence)
            for k, name in enumerate(names)
        },
    }
    out["reliability"] = _reliability(labels, scores, names)
    if calibrated:
        before = figures.of_probabilities(labels, ranks, raw, counts, names, clusters)
        before["reliability"] = _reliability(labels, raw, names)
        if one:
            own = _answers(labels, raw, raw, called, one, counts, clusters)
            before["answers"] = {title: own[title] for title in ("Brier", "ECE")}
        out["before calibration"], out["not calibrated"] = before, answers.kept(network)
    if groups:
        out["subgroups"] = subgroups.judge(
            labels, ranks, called, decided, names, groups, clusters
        )
        healthy, said = _healthy(labels, called, decided, names, task)
        out["under-diagnosis"] = subgroups.under_diagnosis(healthy, said, groups, clusters)
    return out


def _reliability(
    labels: np.ndarray, scores: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    return {
        name: {key: v.tolist() for key, v in
               calibration.reliability(labels[:, k], scores[:, k]).items()}
        for k, name in enumerate(names) if not np.isnan(labels[:, k]).all()
    }


def positive_labels(names: Sequence[str], task: str) -> list[int]:
    """The labels that a table or a picture needs: of two classes one, as the other mirrors it.

    That is the second one, or the first where the second is called normal.
    """
    if task != "multiclass" or len(names) != 2:
        return list(range(len(names)))
    return [0 if _plain(names[1]) in HEALTHY else 1]


def _named(title: str, figure: Mapping[str, Any]) -> dict[str, float]:
    return {title: figure["value"], f"{title} low": figure["low"], f"{title} high": figure["high"]}


def _answers(
    labels: np.ndarray, raw: np.ndarray, scores: np.ndarray, called: np.ndarray,
    one: Mapping[str, Any], counts: np.ndarray, patients: np.ndarray | None,
) -> dict[str, Any]:
    """The figures of one-of-N by the class of the highest probability, called as in `_MACRO`.

    `raw` probabilities decide, `scores` are judged for how well they fit.
    """
    known = ~np.isnan(labels).any(axis=1)
    right = np.where(known, (np.nan_to_num(labels) * called).sum(axis=1), np.nan)
    drawn = decisions.confusion_scores(bootstrap.confusion(labels, raw, counts))
    found = {"accuracy": figures.share(right == 1, known, patients, None)}
    counts_of = {key: found["accuracy"][key] for key in ("n", "positives", "patients")}
    for key in ("macro_precision", "macro_recall", "macro_f1"):
        found[_MACRO[key]] = figures.resampled(one[key], drawn[key], counts_of)
    squares = ((scores - labels) ** 2).sum(axis=1)
    found["Brier"] = figures.of_films(squares, counts, patients)
    found["ECE"] = figures.calibration_error(right, scores.max(axis=1), counts, patients)
    return found


def _operating(
    labels: np.ndarray, called: np.ndarray, threshold: float, patients: np.ndarray | None,
    prevalence: float | None,
) -> dict[str, Any]:
    """One label's threshold and what it gives; {'threshold': nan} where none could be chosen."""
    if np.isnan(threshold):
        return {"threshold": float("nan")}
    positives = int(np.nansum(labels))
    own = figures.shares_of_calls(labels, called, patients, positives)
    if prevalence is not None:
        own |= figures.at_prevalence(own["sensitivity"], own["specificity"], prevalence)
    return {"threshold": float(threshold), **own}


def _healthy(
    labels: np.ndarray, called: np.ndarray, decided: np.ndarray, names: Sequence[str], task: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which films have no finding (1, 0 or NaN), and of which the network says so.

    By the label for it where there is one; else a film without any of the findings, those left out
    that have no threshold.
    """
    for k, name in enumerate(names):
        if _plain(name) in HEALTHY and decided[k]:
            return labels[:, k], called[:, k]
    if task == "multiclass" or not decided.any():
        return np.full(len(labels), np.nan), np.zeros(len(labels), bool)
    own = labels[:, decided]
    ill, known = (own == 1).any(axis=1), ~np.isnan(own).any(axis=1)
    return np.where(ill, 0.0, np.where(known, 1.0, np.nan)), ~called[:, decided].any(axis=1)


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("_", "")
