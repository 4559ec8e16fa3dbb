"""The same figures by group of patients: sex, age band, view, site; who is under-diagnosed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Real, Shaped

from cxrjax.metrics import intervals, ranking
from cxrjax.metrics.figures import AREA, figure, share

AGES = (20, 40, 60, 80)  # where a band ends, in years
COLUMNS = ("sex", "age", "view", "site")


def age_bands(ages: Shaped[np.ndarray, " n"]) -> np.ndarray:
    """'0-19', '20-39', ..., '80+' of each age in years; '' where it is unknown (nan, '', < 0).

    Ages above 120 are typing errors (ChestX-ray14 has such), and unknown too.
    """
    years = np.array([_number(a) for a in np.asarray(ages).tolist()])
    ends = (0, *AGES)
    bands = [f"{a}-{b - 1}" for a, b in zip(ends, AGES)] + [f"{AGES[-1]}+"]
    known = (years >= 0) & (years <= 120)
    place = np.searchsorted(AGES, np.where(known, years, 0), side="right")
    return np.where(known, np.array(bands)[place], "")


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")


def groups(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{'sex' | 'age' | 'view' | 'site': the group of each film as text}, of the columns there are.

    '' is unknown. A column with one value only makes no groups.
    """
    out = {}
    for column in COLUMNS:
        if column in table:
            values = np.asarray(table[column])
            text = age_bands(values) if column == "age" else values.astype(str)
            if len(np.unique(text[text != ""])) > 1:
                out[column] = text
    return out


def judge(
    labels: Real[np.ndarray, "n k"],
    ranks: Real[np.ndarray, "n k"],
    called: Bool[np.ndarray, "n k"],
    decided: Bool[np.ndarray, " k"],
    names: Sequence[str],
    by: Mapping[str, Shaped[np.ndarray, " n"]],
    patients: Shaped[np.ndarray, " n"] | None = None,
) -> dict[str, Any]:
    """AUROC, sensitivity and specificity of each label in each group.

    Args:
      labels: 0, 1 or NaN.
      ranks: what AUROC orders the films by.
      called: which films are called positive.
      decided: the labels that have such an answer.
      names: of the labels.
      by: from `groups`.
      patients: of each film.

    Returns:
      {'rows': [{'by', 'group', 'label', 'AUROC', 'sensitivity', 'specificity'}, ...], 'left out':
      [{'by', 'group', 'label', 'films', 'positives'}, ...], 'unknown': {column: films}}. Groups
      with fewer than 20 positives of a label are counted, not judged.
    """
    rows, left_out = [], []
    for column, group in by.items():
        for value in _order(group):
            member = group == value
            for k, name in enumerate(names):
                known = member & ~np.isnan(labels[:, k])
                y = labels[:, k] == 1
                where = {"by": column, "group": value, "label": name}
                positives = int((known & y).sum())
                if positives < intervals.FEW or not (known & ~y).any():
                    left_out.append({**where, "films": int(known.sum()), "positives": positives})
                    continue
                own = None if patients is None else np.asarray(patients)[known]
                counts = {"n": known.sum(), "positives": positives,
                          "patients": None if own is None else len(np.unique(own))}
                area = ranking.auroc(labels[known, k : k + 1], ranks[known, k : k + 1])[0]
                low, high = intervals.auroc_interval(labels[known, k], ranks[known, k], own)
                row = {**where, "AUROC": figure(area, low, high, **counts, method=AREA)}
                for title, of, hits in (("sensitivity", known & y, called[:, k]),
                                        ("specificity", known & ~y, ~called[:, k])):
                    row[title] = share(hits, of, patients, positives) if decided[k] else None
                rows.append(row)
    unknown = {column: int((group == "").sum()) for column, group in by.items()}
    return {"rows": rows, "left out": left_out, "unknown": unknown}


def under_diagnosis(
    healthy: Real[np.ndarray, " n"],
    called_healthy: Bool[np.ndarray, " n"],
    by: Mapping[str, Shaped[np.ndarray, " n"]],
    patients: Shaped[np.ndarray, " n"] | None = None,
) -> list[dict[str, Any]]:
    """Whom the network sends home ill: by group, how often `No Finding` is answered wrongly.

    Under-diagnosis is the share of films with a finding that are called 'No Finding'; over-
    diagnosis, the false-negative rate of 'No Finding', is the share of films without one that are
    called otherwise (Seyyed-Kalantari et al., Nat Med 2021).

    Args:
      healthy: 1 for films without any finding, 0 for others, NaN where that is not known.
      called_healthy: which films the network calls so.
      by: from `groups`; the first row is of all films.
      patients: of each film.
    """
    known = ~np.isnan(healthy)
    ill, well = known & (healthy == 0), known & (healthy == 1)
    everyone = {"all": np.full(len(healthy), "all")}
    rows = []
    for column, group in {**everyone, **by}.items():
        for value in _order(group):
            member = group == value
            of_ill, of_well = ill & member, well & member
            if min(of_ill.sum(), of_well.sum()) < intervals.FEW and column != "all":
                continue
            rows.append({
                "by": column, "group": value,
                "under-diagnosis": share(called_healthy, of_ill, patients, int(of_ill.sum())),
                "over-diagnosis": share(~called_healthy, of_well, patients, int(of_well.sum())),
            })
    return rows


def _order(group: np.ndarray) -> list[str]:
    return sorted(v for v in np.unique(group).tolist() if v != "")
