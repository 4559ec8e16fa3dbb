"""The pictures of a report: ROC and precision-recall curves, confusion matrices.

matplotlib is imported where it draws: an error in the flags need not wait for it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.metrics import ranking


def plot_curves(
    path: pathlib.Path,
    labels: Float[np.ndarray, "n k"],
    scores: Float[np.ndarray, "n k"],
    names: Sequence[str],
    kind: str,
) -> None:
    """ROC ('roc') or precision-recall ('pr') curves of all labels in one picture."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6), layout="constrained")
    axes = figure.subplots()
    areas = (ranking.auroc if kind == "roc" else ranking.average_precision)(labels, scores)
    colors = matplotlib.colormaps["tab20"](np.arange(len(names)) % 20)
    for k, name in enumerate(names):
        if kind == "roc":
            x, y, _ = ranking.roc_curve(labels[:, k], scores[:, k])
        else:
            y, x, _ = ranking.precision_recall_curve(labels[:, k], scores[:, k])
        label = f"{name.replace('_', ' ')} {areas[k]:.3f}" if len(x) else f"{name} not judged"
        axes.plot(x, y, color=colors[k], label=label, linewidth=1.5)
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC, area under the curve")
    else:
        axes.set(xlabel="recall", ylabel="precision", title="Precision-recall, average precision")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=130)


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
