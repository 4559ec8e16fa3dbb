"""The pictures of a comparison: every entry's ROC curves, and its confusion matrix.

An entry is a `compare.Entry`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cxrjax import tables
from cxrjax.evaluation import plots
from cxrjax.metrics import ranking


def plot_roc(path: pathlib.Path, entries: Sequence[Any]) -> None:
    """A panel per label with every entry's ROC curve (one line per seed)."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = entries[0].runs[0].report["labels"]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.5 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    styles = [plots.style(i) for i in range(len(entries))]
    for ax in axes.flat[len(names):]:
        ax.set_axis_off()
    for k, (ax, name) in enumerate(zip(axes.flat, names)):
        for style, entry in zip(styles, entries):
            areas = []
            for run in entry.runs:
                x, y, _ = ranking.roc_curve(run.labels[:, k], run.ranks[:, k])
                ax.plot(x, y, **style, linewidth=1.2, alpha=0.8 / len(entry.runs) ** 0.5)
                areas.append(ranking.auroc(run.labels[:, k : k + 1], run.ranks[:, k : k + 1])[0])
            ax.plot([], [], **style, label=tables.number(float(np.mean(areas))))
        ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
        ax.set(xlim=(-0.01, 1), ylim=(0, 1.01), title=name.replace("_", " "))
        ax.legend(fontsize=8, loc="lower right", title="AUROC", title_fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("1 - specificity")
    for ax in axes[:, 0]:
        ax.set_ylabel("sensitivity")
    handles = [Line2D([], [], **style, label=e.name) for style, e in zip(styles, entries)]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(4, len(entries)),
                  frameon=False)
    figure.savefig(path, dpi=110)


def plot_confusions(path: pathlib.Path, entries: Sequence[Any]) -> None:
    """The confusion matrices side by side; of several seeds the mean."""
    from matplotlib.figure import Figure

    names = entries[0].runs[0].report["labels"]
    columns = min(3, len(entries))
    rows = -(-len(entries) // columns)
    size = 1.4 + 0.95 * len(names)
    figure = Figure(figsize=(size * columns, size * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(entries):]:
        ax.set_axis_off()
    for ax, entry in zip(axes.flat, entries):
        matrices = [run.report["networks"][run.network]["confusion"] for run in entry.runs]
        matrix = np.mean(matrices, axis=0) if len(matrices) > 1 else np.asarray(matrices[0])
        plots.draw_confusion(ax, matrix, names, entry.name)
    figure.savefig(path, dpi=110)
