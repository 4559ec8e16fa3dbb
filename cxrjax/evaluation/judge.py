"""The figures of a network on one split; the words are in `report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.metrics import _common, bootstrap, calibration, decisions, ranking
from cxrjax.metrics.ranking import probabilities

# How the figures of `metrics` are called in reports, and by `data/sets/_published.py`.
_MACRO = {
    "accuracy": "accuracy", "macro_precision": "macro precision", "macro_recall": "macro recall",
    "macro_f1": "macro F1", "calibration_error": "ECE", "brier": "Brier",
}


def judge_network(
    labels: Float[np.ndarray, "n k"],
    logits: Float[np.ndarray, "n k"],
    val_labels: Float[np.ndarray, "m k"],
    val_logits: Float[np.ndarray, "m k"],
    names: Sequence[str],
    task: str,
    clusters: np.ndarray | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Every figure of one network on one split.

    Args:
      labels: NaN = unknown; one-hot for one-of-N.
      logits: of the network.
      val_labels: of the validation split, where thresholds are chosen (the highest F1).
      val_logits: of the network there.
      names: of the labels.
      task: 'multilabel' or 'multiclass'.
      clusters: patient (or group of duplicates) of each film: the bootstrap draws these. None
        draws films.
      resamples: of the bootstrap of the 95% intervals.

    Returns:
      {'macro': {figure: value}, 'per_label': {label: {figure: value}}} and, for one-of-N,
      'confusion' (truth by answer). What the films do not define is nan. Means are over the labels
      that have both kinds of films ('classes judged'); those of decisions (F1, sensitivity,
      specificity of multi-label) over those of them that have a threshold ('classes decided').
    """
    scores, val_scores = probabilities(logits, task), probabilities(val_logits, task)
    auroc = ranking.auroc(labels, scores)
    ap = ranking.average_precision(labels, scores)
    one = decisions.multiclass(labels, scores) if task == "multiclass" else {}
    thresholds = decisions.choose_thresholds(val_labels, val_scores, "f1")
    counted_at = decisions.at_thresholds(labels, scores, thresholds)
    # Of one-of-N the class of the highest probability is the answer, and no threshold is used.
    decided = decisions.class_scores(one["confusion"]) if one else counted_at
    counts = bootstrap.resample(len(labels), resamples, seed=0, cluster=clusters)
    samples = bootstrap.auroc(labels, scores, counts)
    means = bootstrap.over_labels(samples, auroc)
    low, high = bootstrap.interval(np.column_stack([samples, means]))
    per_label = {
        name: {
            "AUROC": auroc[k], "AUROC low": low[k], "AUROC high": high[k], "AP": ap[k],
            "F1": decided["f1"][k], "precision": decided["precision"][k],
            "sensitivity": decided["sensitivity"][k], "specificity": decided["specificity"][k],
            **({} if one else {"threshold": thresholds[k]}),
            "positives": int(counted_at["positives"][k]), "films": int(counted_at["films"][k]),
        }
        for k, name in enumerate(names)
    }
    mean, counted = _common.mean_counted(auroc)
    judged = ~np.isnan(auroc)

    def over(values: np.ndarray, which: np.ndarray = judged) -> float:
        return _common.mean_counted(np.where(which, values, np.nan))[0]

    macro = {
        "macro AUROC": mean, "macro AUROC low": low[-1], "macro AUROC high": high[-1],
        "classes judged": counted, "classes": len(names),
        "resamples": float(np.isfinite(means).mean()), "macro AP": over(ap),
    }
    out = {"macro": macro, "per_label": per_label}
    if one:
        macro.update({title: one[key] for key, title in _MACRO.items()})
        out["confusion"] = one["confusion"].tolist()
    else:
        known = judged & ~np.isnan(thresholds)
        macro["classes decided"] = int(known.sum())
        for key, title in (("f1", "F1"), ("sensitivity", "sensitivity"),
                           ("specificity", "specificity")):
            macro[f"macro {title}"] = over(decided[key], known)
        macro["Brier"] = over(calibration.brier(labels, scores))
        macro["ECE"] = over(calibration.calibration_error(labels, scores))
    return out
