"""How the networks of one run differ on the same films: every pair, with p values for how many.

The difference of the mean AUROC has the interval of the paired bootstrap and `figures.p_value`;
that of each finding DeLong's of paired areas (`intervals.paired_auroc`). Holm's correction is over
all differences of the section.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Shaped

from cxrjax.evaluation.judge import positive_labels
from cxrjax.metrics import bootstrap, figures, intervals, ranking
from cxrjax.metrics.ranking import log_odds
from cxrjax.tables import signed, table


def between(
    labels: Float[np.ndarray, "n k"], logits: Mapping[str, Float[np.ndarray, "n k"]],
    names: Sequence[str], task: str, counts: Float32[np.ndarray, "n r"],
    patients: Shaped[np.ndarray, " n"] | None = None,
) -> list[dict[str, Any]]:
    """[{'a', 'b', 'of', 'value' (a - b), 'low', 'high', 'p', 'p Holm'}, ...] of every pair.

    Args:
      labels: of the films, NaN = unknown.
      logits: of each network.
      names: of the labels.
      task: 'multilabel' or 'multiclass'.
      counts: from `bootstrap.resample`.
      patients: of each film; None where they are not known.
    """
    shown = positive_labels(names, task)
    truth = labels[:, shown]
    ranks = {n: log_odds(z, task)[:, shown] for n, z in logits.items()}
    areas = {n: ranking.auroc(truth, s) for n, s in ranks.items()}
    samples = {}
    if len(logits) > 1 and len(shown) > 1:
        samples = {n: bootstrap.over_labels(bootstrap.auroc(truth, s, counts), areas[n])
                   for n, s in ranks.items()}
    rows = []
    for a, b in itertools.combinations(logits, 2):
        if samples and np.isfinite(areas[a]).any():
            value = float(np.nanmean(areas[a]) - np.nanmean(areas[b]))
            low, high = bootstrap.difference(samples[a], samples[b])
            p = figures.p_value(samples[a] - samples[b], value)
            rows.append({"a": a, "b": b, "of": "mean over the findings", "value": value,
                         "low": float(low), "high": float(high), "p": p})
        for k, label in enumerate(shown):
            own = intervals.paired_auroc(truth[:, k], ranks[a][:, k], ranks[b][:, k], patients)
            rows.append({"a": a, "b": b, "of": names[label], **own})
    corrected = intervals.holm(np.array([row["p"] for row in rows], float))
    return [{**row, "p Holm": float(p)} for row, p in zip(rows, corrected)]


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The section of a report; none of a run with one network."""
    if not rows:
        return []
    return ["", "Differences of AUROC on the same films, paired; p values also with Holm's "
            f"correction for the {sum(r['p'] == r['p'] for r in rows):,} differences here.", "",
            *table(["networks", "of", "difference (95% interval)", "p", "p, Holm"],
                   [[f"{r['a']} - {r['b']}", r["of"], signed(r["value"], r["low"], r["high"]),
                     p_words(r["p"]), p_words(r["p Holm"])] for r in rows])]


def p_words(p: float | None) -> str:
    """'.032' as '0.032', and what is smaller than a thousandth as that."""
    if p is None or np.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
