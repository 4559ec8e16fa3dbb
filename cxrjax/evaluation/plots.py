"""The pictures of a report: reliability, decision curves, confusion; the curves are in `curves`.

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

from cxrjax.metrics import decisions, intervals

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
THRESHOLDS = np.arange(1, 100) / 100  # of the decision curves


def style(k: int) -> dict[str, str]:
    """Colour and dashes of the k-th line."""
    return {"color": COLORS[k % len(COLORS)],
            "linestyle": DASHES[k // len(COLORS) % len(DASHES)]}


def save(figure: Any, path: pathlib.Path, dpi: int, mark: str = "") -> None:
    """Writes a picture, with a mark below it where there is one (films SEEN IN TRAINING)."""
    if mark:
        figure.text(0.5, -0.01, mark.strip(" ()"), ha="center", va="top", fontsize=9,
                    color=COLORS[1], fontweight="bold")
    figure.savefig(path, dpi=dpi, bbox_inches="tight" if mark else None)


def plot_reliability(
    path: pathlib.Path, points: Mapping[str, Mapping[str, Sequence[float]]],
    before: Mapping[str, Mapping[str, Sequence[float]]] | None = None, mark: str = "",
) -> None:
    """A panel per label: the share of positives by predicted probability, with 95% intervals.

    Args:
      path: of the picture.
      points: {label: `calibration.reliability`}.
      before: those of before calibration, drawn behind, where there are any.
      mark: see `save`.
    """
    figure, axes = panels(list(points), "mean probability", "share of positives")
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
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2,
                      fontsize=8, frameon=False)
    save(figure, path, 110, mark)


def plot_decisions(
    path: pathlib.Path,
    labels: Float[np.ndarray, "n k"],
    probs: Float[np.ndarray, "n k"],
    names: Sequence[str],
    mark: str = "",
) -> None:
    """A panel per label: the net benefit of acting on the network's answer, on all films, on none.
    """
    figure, axes = panels(names, "threshold probability", "net benefit")
    for k, ax in enumerate(axes):
        own = decisions.net_benefit(labels[:, k], probs[:, k], THRESHOLDS)
        ax.plot(THRESHOLDS, own["none"], color=COLORS[-1], linewidth=1, label="on none")
        ax.plot(THRESHOLDS, own["all"], color=COLORS[1], linestyle="--", linewidth=1.2,
                label="on all")
        ax.plot(THRESHOLDS, own["model"], color=COLORS[0], linewidth=1.5, label="by the network")
        top = float(np.nanmax([0.01, *own["model"], own["all"][0]]))
        acts = np.flatnonzero(np.abs(own["model"]) > 1e-12)  # beyond, no film is acted on
        last = THRESHOLDS[acts[-1]] if len(acts) else 0.0
        ax.set(xlim=(0, min(1.0, max(0.1, 1.1 * last))), ylim=(-0.3 * top, 1.1 * top))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3,
                  fontsize=8, frameon=False)
    save(figure, path, 110, mark)


def panels(names: Sequence[str], x: str, y: str) -> tuple[Any, list[Any]]:
    """A figure with a panel for each label, four or five beside each other, and its panels.

    Two such figures of fourteen labels fit a printed page.
    """
    from matplotlib.figure import Figure

    columns = min(4 if len(names) <= 8 else 5, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(4.0, 1.95 * columns), 1.86 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(names):]:
        ax.set_axis_off()
    for ax, name in zip(axes.flat, names):
        ax.set_title(name.replace("_", " "), fontsize=9)
        ax.tick_params(labelsize=7.5)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure, list(axes.flat[: len(names)])


def plot_confusion(
    path: pathlib.Path, matrix: np.ndarray, names: Sequence[str], title: str, mark: str = ""
) -> None:
    """The confusion matrix of `draw_confusion` as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 1.1 * len(names), 1.4 + len(names)), layout="constrained")
    draw_confusion(figure.subplots(), matrix, names, title)
    save(figure, path, 130, mark)


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
