"""The films that a network answers worst, with their names: where a reader should look first."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from cxrjax.evaluation import plots
from cxrjax.tables import table

EACH = 5  # errors of a finding and kind that are listed
MISSED, ALARM, WRONG = "missed", "false alarm", "wrong answer"
Error = dict[str, Any]


def find(
    labels: Float[np.ndarray, "n k"], probs: Float[np.ndarray, "n k"],
    called: Bool[np.ndarray, "n k"], ids: Sequence[str], names: Sequence[str], task: str,
) -> list[Error]:
    """The errors of the largest certainty, {'id', 'film' (its row), 'kind', 'finding', 'truth',
    'answer', 'probability'}.

    Of yes-no findings the positives of the lowest probability that were not called ('missed') and
    the negatives of the highest that were ('false alarm'), five each of every finding. Of one-of-N
    the wrong answers of the highest probability ('wrong answer'), five of each true class, the
    surest first. Films whose label is unknown are none.
    """
    out: list[Error] = []
    if task == "multiclass":
        known = ~np.isnan(labels).any(axis=1)
        truth = np.where(known, np.nan_to_num(labels).argmax(axis=1), -1)
        answer = probs.argmax(axis=1)
        for k, name in enumerate(names):
            rows = np.flatnonzero((truth == k) & (answer != k))
            sure = probs[rows, answer[rows]]
            for i in rows[np.argsort(-sure, kind="stable")][:EACH]:
                out.append({"id": ids[i], "film": int(i), "kind": WRONG, "finding": name,
                            "truth": name, "answer": names[answer[i]],
                            "probability": float(probs[i, answer[i]])})
        return sorted(out, key=lambda e: -e["probability"])
    for k, name in enumerate(names):
        for kind, rows, sign in (
            (MISSED, (labels[:, k] == 1) & ~called[:, k], 1),
            (ALARM, (labels[:, k] == 0) & called[:, k], -1),
        ):
            found = np.flatnonzero(rows)
            for i in found[np.argsort(sign * probs[found, k], kind="stable")][:EACH]:
                out.append({"id": ids[i], "film": int(i), "kind": kind, "finding": name,
                            "truth": "yes" if kind == MISSED else "no",
                            "answer": "no" if kind == MISSED else "yes",
                            "probability": float(probs[i, k])})
    return out


def of_network(
    judged: Mapping[str, Any], labels: Float[np.ndarray, "n k"], probs: Float[np.ndarray, "n k"],
    ids: Sequence[str], names: Sequence[str], task: str,
) -> list[Error]:
    """`find` with the thresholds that the network was judged at; those without one have no errors.
    """
    points = judged["operating point"]["labels"]
    thresholds = np.array([points[name]["threshold"] for name in names], float)
    decided = np.isfinite(thresholds)
    called = probs >= np.where(decided, thresholds, np.inf)
    own = labels if task == "multiclass" else np.where(decided, labels, np.nan)
    return find(own, probs, called, ids, names, task)


def shown(errors: Sequence[Error], most: int = 28) -> list[Error]:
    """Those with a picture: the worst of each kind and finding; of one-of-N the surest twelve."""
    if any(e["kind"] == WRONG for e in errors):
        return list(errors[:12])
    first: dict[tuple[str, str], Error] = {}
    for error in errors:
        first.setdefault((error["finding"], error["kind"]), error)
    return list(first.values())[:most]


def lines(name: str, errors: Sequence[Error], pictures: bool) -> list[str]:
    """The section of a report."""
    if not errors:
        return ["No answer was wrong."]
    one = errors[0]["kind"] == WRONG
    listed = shown(errors)
    words = (
        "The wrong answers that the network was surest of." if one else
        "Of each finding the positive film of the lowest probability that was missed and the "
        "negative film of the highest that was called: to be looked at for wrong labels, other "
        "findings and what the network may have gone by."
    )
    words += " More of them are in worst_errors.csv."
    titles = ["film", *(["truth", "answer"] if one else ["finding", "error"]), "probability"]
    rows = [[e["id"], *([e["truth"], e["answer"]] if one else [e["finding"], e["kind"]]),
             f"{e['probability']:.3f}"] for e in listed]
    picture = ["", f"![The worst errors of {name}](worst_{name}.png)"] * pictures
    return [words, *picture, "", *table(titles, rows)]


def write(path: pathlib.Path, found: Mapping[str, Sequence[Error]], mark: str = "") -> None:
    """worst_errors.csv: a row per error and network; a `mark` is a column of its own."""
    keys = ("id", "kind", "finding", "truth", "answer", "probability")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["network", *keys, *["note"] * bool(mark)])
        for network, errors in found.items():
            writer.writerows([network, *(e[key] for key in keys), *[mark] * bool(mark)]
                             for e in errors)


def plot(
    path: pathlib.Path, errors: Sequence[Error],
    show: Callable[[int], Shaped[np.ndarray, "h w"]], mark: str = "", columns: int = 6,
) -> None:
    """A thumbnail of each film under its name, the error and the probability."""
    from matplotlib.figure import Figure

    rows = -(-len(errors) // columns)
    figure = Figure(figsize=(1.42 * columns, 1.95 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, error in zip(axes.flat, errors):
        film = show(error["film"])
        ax.imshow(film, cmap="gray", vmin=0, vmax=255 if film.dtype == np.uint8 else 1)
        what = (f"is {_short(error['truth'])}\nsaid {_short(error['answer'])}"
                if error["kind"] == WRONG else f"{_short(error['finding'])}\n{error['kind']}")
        ax.set_title(f"{_short(error['id'], 24)}\n{what}\np = {error['probability']:.3f}",
                     fontsize=6, pad=2)
    plots.save(figure, path, 150, mark)


def _short(text: str, most: int = 18) -> str:
    text = text.replace("_", " ") if most < 24 else text
    return text if len(text) <= most else "..." + text[-(most - 3):]
