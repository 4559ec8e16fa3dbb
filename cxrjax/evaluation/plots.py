"""The pictures of a report: ROC, precision-recall, reliability, decision curves, confusion.

Colours are those of Okabe & Ito (2008), which colour-blind readers tell apart, without their
yellow; where there are more lines than colours they differ by dashes too.

matplotlib is imported where it draws: an error in the flags need not wait for it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.metrics import decisions, intervals, ranking

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
THRESHOLDS = np.arange(1, 100) / 100  # of the decision curves


def style(k: int) -> dict[str, str]:
    """Colour and dashes of the k-th line."""
    return {"color": COLORS[k % len(COLORS)],
            "linestyle": DASHES[k // len(COLORS) % len(DASHES)]}


def plot_curves(
    path: pathlib.Path,
    labels: Float[np.ndarray, "n k"],
    scores: Float[np.ndarray, "n k"],
    names: Sequence[str],
    kind: str,
) -> None:
    """ROC ('roc') or precision-recall ('pr') curves of all labels in one picture.

    Between two thresholds no precision is reached, so its curve is drawn in steps.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6), layout="constrained")
    axes = figure.subplots()
    areas = (ranking.auroc if kind == "roc" else ranking.average_precision)(labels, scores)
    for k, name in enumerate(names):
        if kind == "roc":
            x, y, _ = ranking.roc_curve(labels[:, k], scores[:, k])
        else:
            y, x, _ = ranking.precision_recall_curve(labels[:, k], scores[:, k])
        label = f"{name.replace('_', ' ')} {areas[k]:.3f}" if len(x) else f"{name} not judged"
        steps = "default" if kind == "roc" else "steps-post"
        axes.plot(x, y, **style(k), drawstyle=steps, label=label, linewidth=1.5)
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC, area under the curve")
    else:
        axes.set(xlabel="recall", ylabel="precision", title="Precision-recall, average precision")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=130)


def plot_reliability(
    path: pathlib.Path, points: Mapping[str, Mapping[str, Sequence[float]]],
    before: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> None:
    """A panel per label: the share of positives by predicted probability, with 95% intervals.

    Args:
      path: of the picture.
      points: {label: `calibration.reliability`}.
      before: those of before calibration, drawn behind, where there are any.
    """
    figure, axes = _panels(list(points), "mean probability", "share of positives")
    for ax, (label, own) in zip(axes, points.items()):
        ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
        lines = [(own, COLORS[0], "o", "-", "calibrated")]
        if before:
            lines.insert(0, (before[label], COLORS[1], "s", "--", "before calibration"))
        reach = 0.02
        for shown, color, marker, dashes, words in lines:
            x, y, films = (np.asarray(shown[key], float)
                           for key in ("probability", "frequency", "films"))
            ends = np.array([intervals.wilson(float(a), float(n)) for a, n in zip(y, films)])
            reach = max(reach, 1.1 * float(max(x.max(), ends[:, 1].max())))
            ax.errorbar(x, y, np.abs(ends.T - y), color=color, marker=marker, linestyle=dashes,
                        markersize=3.5, linewidth=1.2, elinewidth=0.9, capsize=2, label=words)
        # A rare finding lies in a corner: the panel shows as much as the points reach.
        ax.set(xlim=(0, min(1, reach)), ylim=(0, min(1, reach)))
    if before:
        axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    figure.savefig(path, dpi=110)


def plot_decisions(
    path: pathlib.Path,
    labels: Float[np.ndarray, "n k"],
    probs: Float[np.ndarray, "n k"],
    names: Sequence[str],
) -> None:
    """A panel per label: the net benefit of acting on the network's answer, on all films, on none.
    """
    figure, axes = _panels(names, "threshold probability", "net benefit")
    for k, ax in enumerate(axes):
        own = decisions.net_benefit(labels[:, k], probs[:, k], THRESHOLDS)
        ax.plot(THRESHOLDS, own["none"], color=COLORS[-1], linewidth=1, label="on none")
        ax.plot(THRESHOLDS, own["all"], color=COLORS[1], linestyle="--", linewidth=1.2,
                label="on all")
        ax.plot(THRESHOLDS, own["model"], color=COLORS[0], linewidth=1.5, label="by the network")
        top = float(np.nanmax([0.01, *own["model"], own["all"][0]]))
        ax.set(xlim=(0, 1), ylim=(-0.3 * top, 1.1 * top))
    axes[0].legend(fontsize=8, frameon=False, loc="upper right")
    figure.savefig(path, dpi=110)


def _panels(names: Sequence[str], x: str, y: str) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(4.0, 3.1 * columns), 2.9 * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(names):]:
        ax.set_axis_off()
    for ax, name in zip(axes.flat, names):
        ax.set_title(name.replace("_", " "), fontsize=10)
        ax.tick_params(labelsize=8)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure, list(axes.flat[: len(names)])


def plot_confusion(
    path: pathlib.Path, matrix: np.ndarray, names: Sequence[str], title: str
) -> None:
    """The confusion matrix of `draw_confusion` as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 1.1 * len(names), 1.4 + len(names)), layout="constrained")
    draw_confusion(figure.subplots(), matrix, names, title)
    figure.savefig(path, dpi=130)


def draw_confusion(axes: Any, matrix: np.ndarray, names: Sequence[str], title: str) -> None:
    """The confusion matrix [K, K], truth by answer: counts, coloured by share of the row."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(names)):
        for j in range(len(names)):
            count = round(matrix[i, j], 1)
            axes.text(j, i, f"{count:,}\n{share[i, j]:.1%}", ha="center", va="center",
                      color="white" if share[i, j] > 0.55 else "black", fontsize=9)
    shown = [n.replace("_", " ") for n in names]
    axes.set_xticks(range(len(names)), shown, rotation=25, ha="right")
    axes.set_yticks(range(len(names)), shown)
    axes.set(xlabel="answer", ylabel="truth", title=title)
