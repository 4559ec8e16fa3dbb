"""A report's figures as CSV: one figure a row, with its interval and its counts."""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.evaluation.plots import THRESHOLDS
from cxrjax.metrics import decisions, intervals

FIGURE = ("value", "low", "high", "n", "positives", "patients", "method")


def write(
    folder: pathlib.Path,
    networks: Mapping[str, Mapping[str, Any]],
    labels: Float[np.ndarray, "n k"],
    probs: Mapping[str, Float[np.ndarray, "n k"]],
    names: Sequence[str],
) -> None:
    """Writes figures.csv, subgroups.csv (where there are any) and decision_curves.csv.

    Args:
      folder: of the report.
      networks: {name: `judge.judge_network`}.
      labels: of the films.
      probs: of every network.
      names: of the labels.
    """
    _write(folder / "figures.csv",
           ["network", "of", "figure", *FIGURE, f"fewer than {intervals.FEW} positives"],
           (row for name, judged in networks.items() for row in _figures(name, judged)))
    if any(judged.get("subgroups") for judged in networks.values()):
        _write(folder / "subgroups.csv", ["network", "by", "group", "finding", "figure", *FIGURE],
               (row for name, judged in networks.items() for row in _subgroups(name, judged)))
    _write(folder / "decision_curves.csv",
           ["network", "finding", "threshold", "net benefit", "of acting on all"],
           _curves(labels, probs, names))


def write_tables(
    folder: pathlib.Path, tables: Mapping[str, Sequence[Sequence[Any]]], mark: str = ""
) -> None:
    """Writes {file: rows, the first of them titles}; a `mark` is a column of its own."""
    for name, (titles, *rows) in tables.items():
        note = [mark] * bool(mark)
        _write(folder / name, [*titles, *["note"] * bool(mark)], ([*row, *note] for row in rows))


def _write(path: pathlib.Path, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(titles)
        writer.writerows(rows)


def _cells(own: Mapping[str, Any]) -> list[Any]:
    """What is not known is an empty cell."""
    cells = [own[key] for key in FIGURE]
    return ["" if c is None or isinstance(c, float) and math.isnan(c) else c for c in cells]


def _figures(name: str, judged: Mapping[str, Any]) -> Iterator[list[Any]]:
    found = judged.get("figures", {})
    groups = [(f"finding {label}", own) for label, own in found.get("labels", {}).items()]
    groups += [("mean over the findings", found.get("macro", {})),
               ("all answers together", found.get("micro", {})),
               ("answers", found.get("answers", {}))]
    before = judged.get("before calibration", {})
    said = "before calibration"
    groups += [(f"finding {label}, {said}", own) for label, own in before.get("labels", {}).items()]
    groups += [(f"mean over the findings, {said}", before.get("macro", {})),
               (f"answers, {said}", before.get("answers", {}))]
    for of, own in groups:
        for title, figure in own.items():
            yield [name, of, title, *_cells(figure), "yes" if intervals.few(figure) else ""]
    point = judged.get("operating point", {"labels": {}})
    for label, own in point["labels"].items():
        for title, figure in own.items():
            if title == "threshold":
                value = "" if math.isnan(figure) else figure
                yield [name, f"finding {label}", f"threshold ({point['rule']})", value,
                       *[""] * len(FIGURE)]
            else:
                yield [name, f"finding {label}", f"{title} ({point['rule']})", *_cells(figure),
                       "yes" if intervals.few(figure) else ""]


def _subgroups(name: str, judged: Mapping[str, Any]) -> Iterator[list[Any]]:
    own = judged.get("subgroups") or {"rows": [], "left out": []}
    for row in own["rows"]:
        for title in ("AUROC", "sensitivity", "specificity"):
            if row[title] is not None:
                yield [name, row["by"], row["group"], row["label"], title, *_cells(row[title])]
    for row in own["left out"]:
        yield [name, row["by"], row["group"], row["label"], "not judged", "", "", "", row["films"],
               row["positives"], "", ""]
    for row in judged.get("under-diagnosis", ()):
        for title in ("under-diagnosis", "over-diagnosis"):
            yield [name, row["by"], row["group"], "", title, *_cells(row[title])]


def _curves(
    labels: np.ndarray, probs: Mapping[str, np.ndarray], names: Sequence[str]
) -> Iterator[list[Any]]:
    for network, own in probs.items():
        for k, name in enumerate(names):
            curve = decisions.net_benefit(labels[:, k], own[:, k], THRESHOLDS)
            for t, model, everyone in zip(THRESHOLDS, curve["model"], curve["all"]):
                if not math.isnan(model):
                    yield [network, name, round(float(t), 2), float(model), float(everyone)]
