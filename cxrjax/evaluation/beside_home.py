"""The figures of another hospital beside those at home, and what the page says of both."""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.errors import UserError
from cxrjax.evaluation import judge, saved
from cxrjax.evaluation.answers import Answers
from cxrjax.evaluation.spreadsheets import FIGURE
from cxrjax.metrics import intervals
from cxrjax.tables import figure, finite, interval, number, table

# Of every label, and of the means over them; what depends on prevalence is not a fair comparison.
TITLES = ("AUROC", "sensitivity", "specificity", "ECE")
SPLIT, MEAN = "test", "mean over the findings that both sides can judge"


def read(
    workdir: str | pathlib.Path, weights: str, tta: bool
) -> tuple[list[saved.SavedNetwork], str]:
    """(what the networks answered on the test films of home, why that is not known, or '').

    Args:
      workdir: of the run.
      weights: of the checkpoint that is judged, from `answers.weights_of`.
      tta: whether its answers are means over mirror images.
    """
    try:
        networks = saved.read_networks(pathlib.Path(workdir), SPLIT)
    except UserError as error:
        return [], str(error)
    run = networks[0].report["run"]
    if run.get("weights") != weights or run.get("tta", False) != tta:
        return [], (f"{workdir}/evaluation/{SPLIT} is of another checkpoint: run --mode=evaluate "
                    f"--workdir={workdir} again")
    return networks, ""


def compare(
    own: saved.SavedNetwork, answers: Answers, used: Answers, chosen: Sequence[int],
    labels: Float[np.ndarray, "n k"], logits: Float[np.ndarray, "n k"],
    clusters: np.ndarray | None, judged: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """A network's figures at home and here, of the same labels, made in the same way.

    Args:
      own: its answers at home.
      answers: of the run.
      used: of the labels that are judged (`elsewhere.yes_no`).
      chosen: where these are among the labels of home.
      labels, logits, clusters: of the films here.
      judged: `judge_network` of them.

    Returns:
      [{'of', 'figure', 'home', 'here', 'difference': {value, low, high}}, ...]. The means are over
      the labels that both sides can judge.
    """
    names = list(used.labels)
    whole = answers.task == used.task == "multiclass"
    at = list(chosen)
    here = (labels, logits, clusters)
    units = own.clusters  # numbers again where they were: a bootstrap draws them in their order
    if units is not None and np.char.isdigit(units).all():
        units = units.astype(int)
    home = (own.labels[:, at], own.ranks[:, at], units)

    def judge_some(films: tuple, some: Sequence[int]) -> Mapping[str, Any]:
        y, z, units = films
        return judge.judge_network(
            y[:, some], z[:, some], None, None, [names[k] for k in some], "multilabel", units,
            answers=used.of_labels(some), network=own.network)["figures"]

    every = list(range(len(names)))
    theirs = judged["figures"]
    ours = own.report["networks"][own.network]["figures"] if whole else judge_some(home, every)
    known = [[k for k in every if _known(side["labels"][names[k]]["AUROC"])]
             for side in (ours, theirs)]
    both = [k for k in known[0] if k in known[1]]
    means = [
        side["macro"] if own_known == both or whole else judge_some(films, both)["macro"]
        for side, own_known, films in zip((ours, theirs), known, (home, here)) if both
    ]
    pairs = [(name, ours["labels"][name], theirs["labels"][name]) for name in names]
    if both and (not whole or known[0] == known[1]):
        pairs.insert(0, (MEAN, *means))
    if whole:
        pairs.insert(0, ("the answers", ours["answers"], theirs["answers"]))
    rows = []
    for of, a, b in pairs:
        for title in ("accuracy", "macro F1", "ECE") if of == "the answers" else TITLES:
            value, low, high = intervals.difference(a[title], b[title])
            rows.append({"of": of, "figure": title, "home": dict(a[title]), "here": dict(b[title]),
                         "difference": {"value": value, "low": low, "high": high}})
    return finite(rows)


def _known(own: Mapping[str, Any]) -> bool:
    return own["value"] is not None and not math.isnan(own["value"])


def head(report: Mapping[str, Any]) -> list[str]:
    """What stands at the top of the page; nothing where the films are those of home."""
    own = report.get("elsewhere")
    if not own:
        return []
    lines = [f"- **films of another data set**, {own['dataset']}; at home: {own['home']}",
             f"- labels on both sides, judged here: {len(report['labels'])} "
             f"({', '.join(report['labels'])})"]
    if own["otherwise"]:
        lines.append(f"- called otherwise there: {'; '.join(own['otherwise'])}")
    for key, words in (("not_asked", "on both sides and not asked for"),
                       ("only_home", "only at home, not judged"),
                       ("only_there", "only there, of which the run knows nothing")):
        if own[key]:
            lines.append(f"- {words}: {len(own[key])} ({', '.join(own[key])})")
    if own.get("masks_not_judged"):
        both = ", ".join(own["masks_not_judged"])
        lines.append(f"- masks on both sides, not judged here: {both}")
    lines.append("- prepared as at home" + (f": {'; '.join(own['prepared_as_home'])}"
                                            if own["prepared_as_home"] else ""))
    if own["calibration_left_out"]:
        lines.append("- the calibration of home is of all its classes together, and not used here")
    return lines


def section(report: Mapping[str, Any], mark: str = "") -> list[str]:
    """The tables of home beside here; nothing where the films are those of home."""
    own = report.get("elsewhere")
    if not own:
        return []
    lines = ["", f"## Beside the figures at home{mark}", ""]
    if own["not_at_home"]:
        return [*lines, f"Not known: {own['not_at_home']}"]
    lines += [
        "The same weights, thresholds and labels on the test films of home and on these; the films "
        "are others, so the interval of the difference is from the two intervals (Newcombe 1998).",
        "An interval without 0 is in bold. \\* fewer than 20 positives on one of the sides.", ""]
    for name, rows in own["beside"].items():
        cells = []
        for row in rows:
            star = " \\*" if any(intervals.few(row[side]) for side in ("home", "here")) else ""
            cells.append([row["of"] + star, row["figure"], _count(row["home"]), _count(row["here"]),
                          figure(row["home"]), figure(row["here"]), _bold(row["difference"])])
        lines += [f"{name}:", "",
                  *table(["of", "figure", "positives at home", "here", "at home", "here",
                          "difference"], cells), ""]
    return lines[:-1]


def headline(report: Mapping[str, Any]) -> list[str]:
    """A line a network, for the terminal."""
    own = report["elsewhere"]
    if own["not_at_home"]:
        return [f"beside home: {own['not_at_home']}"]
    lines = []
    for name, rows in own["beside"].items():
        row = next((r for r in rows if r["of"] == MEAN), None)
        if row is None:
            lines.append(f"{name}: no label has films of both kinds on both sides")
            continue
        d = row["difference"]
        lines.append(f"{name}: macro AUROC of these labels at home {number(row['home']['value'])}, "
                     f"here {number(row['here']['value'])}, difference {number(d['value'])} (95% "
                     f"{interval(d['low'], d['high'])})")
    return lines


def write_csv(path: pathlib.Path, report: Mapping[str, Any], mark: str = "") -> None:
    """beside_home.csv: a row a figure, with both sides and the difference."""
    columns = [key for key in FIGURE if key != "method"]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["network", "of", "figure", *(f"{key} {side}" for side in ("home", "here")
                                                   for key in columns),
                      "difference", "low", "high", *(["note"] * bool(mark))])
        for name, rows in report["elsewhere"]["beside"].items():
            for row in rows:
                cells = [row[side].get(key) for side in ("home", "here") for key in columns]
                cells += [row["difference"][key] for key in ("value", "low", "high")]
                out.writerow([name, row["of"], row["figure"],
                              *("" if c is None else c for c in cells), *([mark] * bool(mark))])


def _count(own: Mapping[str, Any]) -> str:
    if own.get("positives") is None:
        return f"{own['n']:,} films"
    return f"{own['positives']:,} of {own['n']:,}"


def _bold(d: Mapping[str, Any]) -> str:
    text = figure(d)
    clear = None not in (d["low"], d["high"]) and not d["low"] <= 0 <= d["high"]
    return f"**{text}**" if clear else text
