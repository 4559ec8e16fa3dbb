"""How the networks of one run differ on the same films: every pair, with p values for how many.

Intervals and p values are DeLong's of paired areas, of a finding (`intervals.paired_auroc`) and of
the mean over the findings (`paired_mean_auroc`). Holm's correction is over all differences of the
section.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from cxrjax.evaluation.judge import positive_labels
from cxrjax.metrics import intervals
from cxrjax.metrics.ranking import log_odds
from cxrjax.tables import signed, table


def between(
    labels: Float[np.ndarray, "n k"], logits: Mapping[str, Float[np.ndarray, "n k"]],
    names: Sequence[str], task: str, patients: Shaped[np.ndarray, " n"] | None = None,
) -> list[dict[str, Any]]:
    """[{'a', 'b', 'of', 'value' (a - b), 'low', 'high', 'p', 'p Holm'}, ...] of every pair.

    Args:
      labels: of the films, NaN = unknown.
      logits: of each network.
      names: of the labels.
      task: 'multilabel' or 'multiclass'.
      patients: of each film; None where they are not known.
    """
    shown = positive_labels(names, task)
    truth = labels[:, shown]
    ranks = {n: log_odds(z, task)[:, shown] for n, z in logits.items()}
    areas = {n: intervals.areas(truth, s, patients) for n, s in ranks.items()}
    rows = []
    for a, b in itertools.combinations(logits, 2):
        if len(shown) > 1 and areas[a]:
            own = intervals.paired_mean_auroc([areas[a]], [areas[b]])
            rows.append({"a": a, "b": b, "of": "mean over the findings", **own})
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
